"""Between a posted prompt and ComfyUI's queue: what does not fit is refused, what `fit` chooses is set."""

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
from .interruption import beside_what_runs
from .planner import PLANNER, MadePlan, keep, make_plan
from .request import FIT, REJECT, PlanRequest, request_of
from .walk import Change, Prompt, changed

log = logging.getLogger(__name__)
# From the middleware, which sees a prompt first, to the handler that ComfyUI lets change it.
_chosen: ContextVar[Change | None] = ContextVar("chosen", default=None)


@web.middleware
async def plan_before_it_is_queued(request: web.Request, handler: Any) -> web.StreamResponse:
    """Answers a posted prompt whose planner says that it does not fit; all else goes on to ComfyUI.

    Its validation of nodes would let the outputs run that hang on none of ours.
    """
    if request.method == "POST" and request.path in ("/prompt", "/api/prompt"):
        posted = await _posted(request)
        if _planners(posted["prompt"]):
            found = await asyncio.to_thread(beside_what_runs, lambda: _looked_at(posted))
            if isinstance(found, MadePlan):
                _chosen.set(found.change)
            elif found is not None:
                return web.json_response(found, status=400)
    return await handler(request)


def set_what_was_chosen(posted: dict[str, Any]) -> dict[str, Any]:
    """ComfyUI's on_prompt handler: the posted prompt with the inputs that `fit` chose for it."""
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
    """The inputs of the planners in a prompt."""
    return [
        node["inputs"]
        for node in prompt.values()
        if isinstance(node, dict) and node.get("class_type") == PLANNER and isinstance(node.get("inputs"), dict)
    ]


def _looked_at(posted: Mapping[str, Any]) -> MadePlan | dict[str, Any] | None:
    """The plan of a prompt that may run, or the answer to one that may not; None where ComfyUI is to say what is wrong.

    With several planners the strictest decides: any that refuses, does.
    """
    prompt, last = posted["prompt"], None
    try:
        for inputs in _planners(prompt):
            request = request_of(inputs)
            made = make_plan(prompt, request, _targets(posted))
            if made.plan.shortage is not None and request.mode in (REJECT, FIT):
                _show_refused(posted, made)
                return _refusal(prompt, made)
            last = _settled(prompt, request, made)
    except InterruptProcessingException:  # an Exception before ComfyUI 0.27
        raise
    except Exception as error:  # a prompt can be anything
        why = f"{type(error).__name__}: {error}"
        log.warning("The memory planner could not plan this workflow, which runs without a plan: %s", why)
        return None
    return last


def _show_refused(posted: Mapping[str, Any], made: MadePlan) -> None:
    """To the editor that posted it, whose memory panel offers what would fit."""
    editor = posted.get("client_id")
    if isinstance(editor, str):
        PromptServer.instance.send_sync("ggml.rejected", plan_json(made.plan, made.advised), editor)


def _settled(prompt: Prompt, request: PlanRequest, made: MadePlan) -> MadePlan:
    """The plan, kept for the prompt as it will run; what was chosen for another machine is shown, but not set."""
    if request.profile is not None:
        made = MadePlan(made.plan, made.advised, {}, made.chosen and f"On {request.profile.name}: {made.chosen}")
    keep(changed(prompt, made.change), made)
    return made


def _targets(posted: Mapping[str, Any]) -> Sequence[str] | None:
    targets = posted.get("partial_execution_targets")
    return targets if isinstance(targets, list) else None


def _refusal(prompt: Prompt, made: MadePlan) -> dict[str, Any]:
    """The answer to a prompt that does not fit, which ComfyUI's front end shows on every node of this pack in it."""
    details = report(made.plan, made.advised)
    fault = {"type": "ggml_does_not_fit", "message": verdict(made.plan), "details": details, "extra_info": {}}
    types = {node: str(described["class_type"]) for node, described in prompt.items() if isinstance(described, dict)}
    return {
        "error": fault,
        "node_errors": {
            node: {"errors": [_on_node(fault, class_type)], "dependent_outputs": [], "class_type": class_type}
            for node, class_type in types.items()
            if class_type.startswith("GGML")
        },
    }


def _on_node(fault: dict[str, Any], class_type: str) -> dict[str, Any]:
    """Of a type whose details the front end shows; it has words of its own for each it knows, and none for ours."""
    named = {"input_name": "mode" if class_type == PLANNER else "device"}
    return {**fault, "type": "custom_validation_failed", "extra_info": named}
