"""What happens to prompts that are posted to ComfyUI before it sees them.

Loaders are converted where that is wanted. Then the planner refuses what does not fit, and sets what `fit` chose.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import execution
from aiohttp import web
from comfy.model_management import InterruptProcessingException
from server import PromptServer

from ...native.planning import ProfileError, plan_json, report, verdict
from ...native.weights import WeightFileError
from ..conversion.convert import convert
from ..conversion.wanted import ConversionError, is_wanted, with_report
from .planner import PLANNER, PlanResult, beside_execution, make_plan, planner_request, store_result
from .request import FIT, REJECT, WARN, PlanRequest, RequestError
from .walk import Change, Prompt, changed, prompt_fault

log = logging.getLogger(__name__)
# From the middleware, which sees a prompt first, to the handler that ComfyUI lets change it.
_chosen: ContextVar[Change | None] = ContextVar("chosen", default=None)
_converts: ContextVar[bool] = ContextVar("converts", default=False)


@web.middleware
async def plan_posted_prompt(request: web.Request, handler: Any) -> web.StreamResponse:
    """Converts a posted prompt where that is wanted, and refuses it if its planner says that it does not fit.

    All other requests are passed on to ComfyUI. A failed validation of the planner node would not do: ComfyUI then
    still runs outputs that need none of our nodes.
    """
    if request.method == "POST" and request.path in ("/prompt", "/api/prompt"):
        posted = await _posted(request)
        try:
            _converts.set(is_wanted(request, posted))
        except ConversionError as error:
            return web.json_response(_refusal(posted["prompt"], str(error), "", [], "convert"), status=400)
        if _converts.get():
            posted = await asyncio.to_thread(_converted, posted)
            _show(posted, "ggml.converted", posted["extra_data"]["ggml"])
        if _planners(posted["prompt"]):
            outcome = await asyncio.to_thread(beside_execution, lambda: _plan_posted(posted))
            if isinstance(outcome, PlanResult):
                _chosen.set(outcome.change)
            elif outcome is not None and (outcome.lacks_memory or await _is_accepted(posted)):
                return web.json_response(outcome.body, status=400)
    return await handler(request)


@dataclass(frozen=True)
class _Refusal:
    """The answer to a prompt that must not run."""

    body: dict[str, Any]
    lacks_memory: bool  # else ComfyUI's own refusal, if it has one, says more


async def _is_accepted(posted: Mapping[str, Any]) -> bool:
    """Whether ComfyUI would run the whole of a prompt."""
    if prompt_fault(posted["prompt"]):
        return False
    try:
        checked = await execution.validate_prompt(uuid4().hex, posted["prompt"], _targets(posted))
    except Exception:  # which ComfyUI meets again when it answers
        return False
    valid, _, _, faults = checked
    return valid and not faults


def apply_choice(posted: dict[str, Any]) -> dict[str, Any]:
    """ComfyUI's on_prompt handler: the posted body as converted, with the inputs that the mode `fit` chose."""
    if _converts.get() and isinstance(posted.get("prompt"), dict):
        posted = _converted(posted)
    change = _chosen.get()
    if not change:
        return posted
    return {**posted, "prompt": changed(posted["prompt"], change)}


def _converted(posted: Mapping[str, Any]) -> dict[str, Any]:
    prompt, report = convert(posted["prompt"])
    return with_report({**posted, "prompt": prompt}, report.to_json())


async def _posted(request: web.Request) -> dict[str, Any]:
    try:
        posted = await request.json()
    except (ValueError, RecursionError):
        posted = None
    if not isinstance(posted, dict) or not isinstance(posted.get("prompt"), dict):
        return {"prompt": {}}
    return posted


def _planners(prompt: Prompt) -> list[str]:
    """The planner nodes in a prompt."""
    return [
        node
        for node, described in prompt.items()
        if isinstance(described, dict)
        and described.get("class_type") == PLANNER
        and isinstance(described.get("inputs"), dict)
    ]


def _plan_posted(posted: Mapping[str, Any]) -> PlanResult | _Refusal | None:
    """The plan of a prompt that may run, or the refusal of one that may not; None where a model file is unusable.

    With several planners any may refuse.
    """
    prompt, last, mode = posted["prompt"], None, REJECT
    for planner in _planners(prompt):
        try:
            request = planner_request(prompt, planner)
            mode = request.mode
            result = make_plan(prompt, request, _targets(posted))
        except InterruptProcessingException:  # an Exception before ComfyUI 0.27
            raise
        except (WeightFileError, FileNotFoundError) as error:  # which the loader says when it runs
            log.warning("The memory planner could not plan this workflow: %s", error)
            return None
        except (RequestError, ProfileError) as error:
            name = error.name if isinstance(error, RequestError) else "hardware"
            return _Refusal(_refusal(prompt, str(error), "", [planner], name), lacks_memory=False)
        except Exception as error:
            log.exception("The memory planner could not plan this workflow")
            if mode == WARN:
                return None
            why = f"The memory planner could not plan this workflow ({type(error).__name__}: {error})."
            way_out = "Choose the mode warn to run it without a plan."
            return _Refusal(_refusal(prompt, f"{why} {way_out}", "", [planner], "mode"), lacks_memory=False)
        if not result.plan.fits and request.mode in (REJECT, FIT):
            _show(posted, "ggml.rejected", plan_json(result.plan, result.advice))
            return _not_fitting(prompt, result)
        last = _stored(prompt, request, result)
    return last


def _not_fitting(prompt: Prompt, result: PlanResult) -> _Refusal:
    """The answer to a prompt that does not fit, or of which that is not known."""
    details = report(result.plan, result.advice)
    if result.plan.shortage is None:
        details += "\nTo run it all the same, choose the mode warn."
    ours = [
        node
        for node, described in prompt.items()
        if isinstance(described, dict) and str(described.get("class_type")).startswith("GGML")
    ]
    body = _refusal(prompt, verdict(result.plan), details, ours, "device")
    return _Refusal(body, lacks_memory=result.plan.shortage is not None)


def _show(posted: Mapping[str, Any], event: str, what: Mapping[str, Any]) -> None:
    """Sends something to the editor that posted the prompt: a plan, whose advice its panel offers, or a report."""
    editor = posted.get("client_id")
    if isinstance(editor, str):
        PromptServer.instance.send_sync(event, what, editor)


def _stored(prompt: Prompt, request: PlanRequest, result: PlanResult) -> PlanResult:
    """Stores the plan for the prompt as it will run; a choice for another machine is shown, but not set."""
    if request.profile is not None:
        choice = result.choice and f"On {request.profile.name}: {result.choice}"
        result = PlanResult(result.plan, result.advice, {}, choice)
    store_result(changed(prompt, result.change), result)
    return result


def _targets(posted: Mapping[str, Any]) -> Sequence[str] | None:
    targets = posted.get("partial_execution_targets")
    return targets if isinstance(targets, list) else None


def _refusal(prompt: Prompt, message: str, details: str, nodes: Sequence[str], name: str) -> dict[str, Any]:
    """The response that ComfyUI's front end shows on these nodes; name: of the input that it is about."""
    error = {
        "type": "ggml_does_not_fit", "message": message, "details": details or message, "extra_info": {},
    }  # fmt: skip
    types = {node: str(prompt[node]["class_type"]) for node in nodes}
    return {
        "error": error,
        "node_errors": {
            node: {"errors": [_on_node(error, class_type, name)], "dependent_outputs": [], "class_type": class_type}
            for node, class_type in types.items()
        },
    }


def _on_node(error: dict[str, Any], class_type: str, name: str) -> dict[str, Any]:
    """The error of a node, of a type whose details the front end shows; it has texts of its own for the others."""
    extra_info = {"input_name": "mode" if class_type == PLANNER and name == "device" else name}
    return {**error, "type": "custom_validation_failed", "extra_info": extra_info}
