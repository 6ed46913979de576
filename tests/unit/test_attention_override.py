"""Our attention gives what core's gives, in every form it is called in, and touches nothing of core's."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests import random_models
from tests.pack import part

attention = part("nodes.components.attention_override")

import comfy.clip_model  # noqa: E402
import comfy.ldm.modules.attention as core  # noqa: E402
import comfy.ldm.modules.diffusionmodules.model as core_vae  # noqa: E402
import comfy.ops  # noqa: E402


@pytest.mark.parametrize("skip_reshape", [False, True])
@pytest.mark.parametrize("skip_output_reshape", [False, True])
@pytest.mark.parametrize("mask_shape", [None, (10, 10), (2, 10, 10), (2, 4, 10, 10), (1, 1, 10, 10)])
def test_equals_core(skip_reshape: bool, skip_output_reshape: bool, mask_shape: tuple[int, ...] | None) -> None:
    shape = (2, 4, 10, 32) if skip_reshape else (2, 10, 128)
    q, k, v = torch.randn(3, *shape)
    options: dict[str, Any] = {
        "mask": None if mask_shape is None else torch.randn(mask_shape),
        "skip_reshape": skip_reshape,
        "skip_output_reshape": skip_output_reshape,
    }
    torch.testing.assert_close(
        attention.attention(q, k, v, 4, **options), core.attention_pytorch(q, k, v, 4, **options)
    )


def test_scale_and_grouped_heads_equal_core() -> None:
    q, k, v = torch.randn(2, 4, 10, 32), torch.randn(2, 2, 10, 32), torch.randn(2, 2, 10, 32)
    options = {"skip_reshape": True, "scale": 0.3, "enable_gqa": True}
    torch.testing.assert_close(
        attention.attention(q, k, v, 4, **options), core.attention_pytorch(q, k, v, 4, **options)
    )


def test_core_calls_it_through_the_override() -> None:
    q, k, v = torch.randn(3, 2, 4, 10, 32)
    options = {"optimized_attention_override": attention.override}
    called = core.optimized_attention(q, k, v, 4, skip_reshape=True, transformer_options=options)
    torch.testing.assert_close(called, attention.attention(q, k, v, 4, skip_reshape=True))


def test_image_attention_equals_core() -> None:
    q, k, v = torch.randn(3, 2, 16, 6, 5)
    torch.testing.assert_close(attention.image_attention(q, k, v), core_vae.normal_attention(q, k, v))


def test_only_the_one_instance_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    def build() -> torch.nn.Module:
        encoder = comfy.clip_model.CLIPTextModel(
            random_models.CLIP, torch.float32, "cpu", comfy.ops.disable_weight_init
        )
        random_models.randomize(encoder, 0)
        return encoder.text_model.encoder

    ours, theirs = build(), build()
    attention.own_attention(ours)
    monkeypatch.setattr(comfy.clip_model, "optimized_attention_for_device", lambda *args, **kwargs: None)
    x = torch.randn(1, 7, random_models.CLIP_WIDTH)
    with pytest.raises(TypeError):
        theirs(x.clone())
    assert torch.isfinite(ours(x.clone())[0]).all()


def test_class_that_chooses_otherwise_is_refused() -> None:
    with pytest.raises(KeyError, match="optimized_attention_for_device"):
        attention.own_attention(torch.nn.Linear(1, 1))
