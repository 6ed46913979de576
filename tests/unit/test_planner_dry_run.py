"""Dry runs of nodes: a trace that one encoder has made serves another, inputs are nested, failures say why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests import random_models
from tests.checkpoints import without_projection
from tests.pack import part

client = part("native.client")
dry_run = part("native.engines.dry_run")
text_encoders = part("nodes.loaders.text_encoders")
weights = part("native.weights")
CPU = client.Device("CPU", "CPU", "a processor", 1 << 40, 1 << 40, 1 << 40, ())
MACHINE = part("native.planning").Machine((CPU,), {"CPU": 1 << 40})


def planned(path: Path, tensors: dict[str, torch.Tensor]) -> Any:
    """The pooled state of a CLIP-L, as a dry run has it."""
    random_models.write_safetensors(path, tensors)
    width = next(len(x) for name, x in tensors.items() if name.endswith("final_layer_norm.weight"))
    with part("nodes.components.host").dry_run_host(dry_run.Recorder(client.shared(), MACHINE)):
        placement = part("native.placement").Placement("CPU")
        clip, _ = text_encoders.load_encoders([weights.read_header(str(path))], "auto", placement)
        module, embeds = clip.cond_stage_model.clip_l.transformer, torch.zeros(1, 77, width)
        return module(None, None, embeds=embeds, num_tokens=[77], intermediate_output=-2)


def test_encoders_that_differ_in_what_is_read_here_share_a_trace(tmp_path: Path) -> None:
    tensors = random_models.clip_l()
    whole = planned(tmp_path / "clip_l.safetensors", tensors)
    without = planned(tmp_path / "without.safetensors", without_projection(tensors))
    assert [x.shape for x in without] == [x.shape for x in whole]


def test_a_node_that_fails_says_why(caplog: pytest.LogCaptureFixture) -> None:
    why = part("nodes.planner.other_nodes").why_it_fails
    assert why("Anything", {}, ValueError("the mask is 3 x 3.")) == "Anything fails: the mask is 3 x 3"
    with caplog.at_level("INFO"):
        for error in (KeyError("t5xxl"), AssertionError()):
            assert why("Anything", {}, error) == "Anything fails with these inputs, and ComfyUI's log says more"
    assert "Anything fails in a plan: KeyError: 't5xxl'" in caplog.text


def test_inputs_of_a_choice_are_nested_as_when_a_node_runs() -> None:
    from comfy_api.latest import io

    class Grows(io.ComfyNode):
        @classmethod
        def define_schema(cls) -> io.Schema:
            pictures = io.Autogrow.TemplatePrefix(io.Image.Input("picture"), prefix="picture", min=1, max=4)
            return io.Schema(node_id="Grows", inputs=[io.Autogrow.Input("pictures", template=pictures)])

        @classmethod
        def execute(cls, pictures: Any) -> io.NodeOutput:
            raise NotImplementedError

    given = {"pictures.picture0": 1, "pictures.picture1": 2, "gone": 3}
    nodes_of_others = part("nodes.planner.other_nodes")
    assert nodes_of_others._nested(Grows, given) == {"pictures": {"picture0": 1, "picture1": 2}}
    assert nodes_of_others._input_types(Grows, given).items() >= dict.fromkeys(list(given)[:2], "IMAGE").items()
