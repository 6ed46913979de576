"""GGML Memory Planner: plans the memory of the workflow before it runs, and refuses it where it does not fit."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ...native.planning import report
from ..node_text import show
from .actual import peaks_so_far
from .chart import chart
from .planner import make_plan, planner_request, store_result, stored_result
from .request import MODES, REJECT, THIS_MACHINE, profile_names


class GGMLMemoryPlanner(io.ComfyNode):
    """The node GGML Memory Planner."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node's inputs and outputs."""
        return io.Schema(
            node_id="GGMLMemoryPlanner",
            display_name="GGML Memory Planner",
            category="loaders/GGML",
            description="Works out what this workflow takes of the GPU's memory and of RAM before anything is loaded, "
            "and stops it if it does not fit. Put it anywhere in the workflow; it needs no link.",
            search_aliases=["GGUF", "Vulkan", "VRAM", "out of memory", "OOM", "low VRAM", "budget", "RX 580"],
            inputs=[
                io.Combo.Input(
                    "mode", options=list(MODES), default=REJECT,
                    tooltip="What happens to a workflow that does not fit. reject: it is refused before anything runs. "
                    "warn: it runs, and the report says what does not fit. fit: what GGML loaders leave on auto "
                    "(device, weights, tiles) is set to the fastest choice that fits; refused if nothing does.",
                ),
                io.Int.Input(
                    "gpu_budget", default=0, min=0, max=1 << 20,
                    tooltip="MiB of each GPU that the workflow may take. 0: what is free, less 512. Set it to leave "
                    "more to other programs.",
                ),
                io.Int.Input(
                    "ram_budget", default=0, min=0, max=1 << 24,
                    tooltip="MiB of RAM that the workflow may take. 0: what is free, less a fifth of all RAM. Set it "
                    "to leave more to other programs.",
                ),
                io.Combo.Input(
                    "hardware", options=profile_names(), default=THIS_MACHINE, optional=True,
                    tooltip="The machine to plan for. Choose another one's card to see whether the workflow would fit "
                    "there; what fit chooses for it is shown, not set.",
                ),
                *(
                    io.Int.Input(
                        f"unknown_{side}", default=0, min=0, max=16384, optional=True, advanced=True,
                        tooltip=f"The {side} to plan with if it cannot be known, such as behind nodes of other "
                        "packs. 0: that part is left out of the plan, and the report says so.",
                    )
                    for side in ("width", "height")
                ),
                io.Int.Input(
                    "unknown_batch", default=1, min=1, max=4096, optional=True, advanced=True,
                    tooltip="The batch size to plan with if it cannot be known.",
                ),
                io.Model.Input("model", optional=True, tooltip="Passed through unchanged; may stay unlinked."),
                io.Clip.Input("clip", optional=True, tooltip="Passed through unchanged; may stay unlinked."),
                io.Vae.Input("vae", optional=True, tooltip="Passed through unchanged; may stay unlinked."),
            ],
            outputs=[
                io.String.Output(display_name="report"), io.Image.Output(display_name="chart"),
                io.Model.Output(), io.Clip.Output(), io.Vae.Output(),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, **_: Any) -> float:
        """NaN, so that the node always runs: the plan depends on the whole workflow."""
        return float("nan")

    @classmethod
    def execute(cls, model: Any = None, clip: Any = None, vae: Any = None, **_: Any) -> io.NodeOutput:
        """The report and chart of the workflow that the node is in."""
        prompt = cls.hidden.prompt
        result = stored_result(prompt)
        if result is None:  # the prompt was not posted over ComfyUI's HTTP API
            result = make_plan(prompt, planner_request(prompt, cls.hidden.unique_id))
            store_result(prompt, result)
        text = report(result.plan, result.advice, result.choice, peaks_so_far())
        show(cls, text)
        return io.NodeOutput(text, chart(result.plan), model, clip, vae, ui=ui.PreviewText(text))
