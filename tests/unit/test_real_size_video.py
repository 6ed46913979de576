"""Memory of VAEs of video and sound, and of Wan 2.2, at their real size, by dry run: nothing is loaded."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from native.client import Runner
from native.ggml_types import tensor_bytes
from native.lower import LowerOptions, WeightType, lower
from native.trace import trace
from tests.bench import hollow, hollow_vaes, video_vae
from tests.parity.families.case import product_attention
from tests.runner_toys import new_runner

MB = 400  # of programs and constants


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    runner = new_runner()
    yield runner
    runner.close()


@pytest.mark.parametrize(
    ("name", "latents", "gigabytes"),
    [
        ("hunyuan", (1, 16, 21, 32, 32), 4.6),  # 81 frames of 256x256
        ("ltx0.9", (1, 128, 11, 8, 8), 0.9),
        ("stable-audio", (1, 64, 256), 1.5),
    ],
)
def test_a_tile_is_decoded_in_bounded_memory(
    runner: Runner, name: str, latents: tuple[int, ...], gigabytes: float
) -> None:
    """The tile that a CPU takes (nodes/components/tile_choice.py); its program is the program of all of them."""
    measured = video_vae.measure(hollow_vaes.vae(name), "decode", latents, "CPU", runner)
    assert not measured.error
    assert not measured.islands
    assert measured.program_mb <= MB
    assert 0 < measured.buffer_mb <= 1000 * gigabytes
    assert measured.process_mb <= 500


def test_no_tensor_of_wan_2_2_14b_at_81_frames_is_larger_than_2_gib(runner: Runner) -> None:
    """One of its 40 blocks, which are all alike; latents of 832x480."""
    import comfy.ldm.wan.model

    module = comfy.ldm.wan.model.WanModel(
        dim=5120, ffn_dim=13824, num_heads=40, num_layers=1, in_dim=16, device="meta", dtype=torch.float32,
        operations=comfy.ops.disable_weight_init,
    ).eval()  # fmt: skip
    inputs = {
        "x": torch.zeros(1).expand(1, 16, 21, 60, 104), "timestep": torch.ones(1),
        "context": torch.zeros(1).expand(1, 512, 4096),
    }  # fmt: skip
    with product_attention():
        traced = trace(
            "wan", module, lambda m, t: m(t["x"], t["timestep"], t["context"], transformer_options={}), inputs
        )
    kinds = {name: WeightType(kind, shape) for name, (shape, kind) in hollow.types(module, "Q4_K").items()}
    program = lower(traced, kinds, LowerOptions()).program
    rows = [row for row in program.tensors if row.kind == "op"]
    assert max(row.ne[1] for row in rows if row.name == "flash_attn" or row.name == "mul_mat") >= 32760 // 64
    assert max(tensor_bytes(row.type, row.ne) for row in program.tensors) <= 2 << 30
    taken = runner.estimate("wan", "CPU", program)
    assert taken.largest_tensor <= 2 << 30
    assert taken.compute <= 3 << 30
