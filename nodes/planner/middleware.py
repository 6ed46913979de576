"""Plans prompts that are posted to ComfyUI: refuses those that do not fit, sets what the mode `fit` chose."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Any

from aiohttp import web
from comfy.model_management import InterruptProcessingException
from server import PromptServer

from ...native.planning import plan_json, report, verdict
from .planner import PLANNER, PlanResult, beside_execution, make_plan, store_result
from .request import FIT, REJECT, PlanRequest, request_of
from .walk import Change, Prompt, changed

log = logging.getLogger(__name__)
# From the middleware, which sees a prompt first, to the handler that ComfyUI lets change it.
_chosen: ContextVar[Change | None] = ContextVar("chosen", default=None)


@web.middleware
async def plan_posted_prompt(request: web.Request, handler: Any) -> web.StreamResponse:
    """Refuses a posted prompt whose planner says that it does not fit; passes all other requests on to ComfyUI.

    A failed validation of the planner node would not do: ComfyUI then still runs outputs that need none of our nodes.
    """
    if request.method == "POST" and request.path in ("/prompt", "/api/prompt"):
        posted = await _posted(request)
        if _planners(posted["prompt"]):
            outcome = await asyncio.to_thread(beside_execution, lambda: _plan_posted(posted))
            if isinstance(outcome, PlanResult):
                _chosen.set(outcome.change)
            elif outcome is not None:
                return web.json_response(outcome, status=400)
    return await handler(request)


def apply_choice(posted: dict[str, Any]) -> dict[str, Any]:
    """ComfyUI's on_prompt handler: the posted body with the inputs that the mode `fit` chose."""
    change = _chosen.get()
    if not change:
        return posted
    return {**posted, "prompt": changed(posted["prompt"], change)}


async def _posted(request: web.Request) -> dict[str, Any]:
    try:
        posted = await request.json()
    except ValueError:
        posted = None
    if not isinstance(posted, dict) or not isinstance(posted.get("prompt"), dict):
        return {"prompt": {}}
    return posted


def _planners(prompt: Prompt) -> list[Mapping[str, Any]]:
    """The inputs of the planner nodes in a prompt."""
    return [
        node["inputs"]
        for node in prompt.values()
        if isinstance(node, dict) and node.get("class_type") == PLANNER and isinstance(node.get("inputs"), dict)
    ]


def _plan_posted(posted: Mapping[str, Any]) -> PlanResult | dict[str, Any] | None:
    """The plan of a prompt that may run, or the refusal of one that may not; None where it cannot be planned.

    With several planners any may refuse.
    """
    prompt, last = posted["prompt"], None
    try:
        for inputs in _planners(prompt):
            request = request_of(inputs)
            result = make_plan(prompt, request, _targets(posted))
            if result.plan.shortage is not None and request.mode in (REJECT, FIT):
                _show_refused(posted, result)
                return _refusal(prompt, result)
            last = _stored(prompt, request, result)
    except InterruptProcessingException:  # an Exception before ComfyUI 0.27
        raise
    except Exception as error:  # of a malformed prompt, which ComfyUI reports
        why = f"{type(error).__name__}: {error}"
        log.warning("The memory planner could not plan this workflow, which runs without a plan: %s", why)
        return None
    return last


def _show_refused(posted: Mapping[str, Any], result: PlanResult) -> None:
    """Sends the plan to the editor that posted the prompt, whose memory panel offers the advice."""
    editor = posted.get("client_id")
    if isinstance(editor, str):
        PromptServer.instance.send_sync("ggml.rejected", plan_json(result.plan, result.advice), editor)


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


def _refusal(prompt: Prompt, result: PlanResult) -> dict[str, Any]:
    """The response for a prompt that does not fit; ComfyUI's front end shows it on every node of this pack."""
    details = report(result.plan, result.advice)
    error = {"type": "ggml_does_not_fit", "message": verdict(result.plan), "details": details, "extra_info": {}}
    types = {node: str(described["class_type"]) for node, described in prompt.items() if isinstance(described, dict)}
    return {
        "error": error,
        "node_errors": {
            node: {"errors": [_on_node(error, class_type)], "dependent_outputs": [], "class_type": class_type}
            for node, class_type in types.items()
            if class_type.startswith("GGML")
        },
    }


def _on_node(error: dict[str, Any], class_type: str) -> dict[str, Any]:
    """The error of a node, of a type whose details the front end shows; it has texts of its own for the others."""
    extra_info = {"input_name": "mode" if class_type == PLANNER else "device"}
    return {**error, "type": "custom_validation_failed", "extra_info": extra_info}
