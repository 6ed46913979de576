"""Our attention gives what core's gives in every form it is called in; core calls it for our modules alone."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.pack import part

attention = part("nodes.components.attention_override")

import comfy.ldm.modules.attention as core  # noqa: E402
import comfy.ldm.modules.diffusionmodules.model as core_vae  # noqa: E402


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


@pytest.mark.parametrize("name", ["attention_basic", "attention_sub_quad", "attention_split", "attention_pytorch"])
def test_core_calls_it_while_it_is_asked_to(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = torch.randn(3, 2, 4, 10, 32)
    calls: list[str] = []
    monkeypatch.setattr(attention, "attention", lambda *args, **kwargs: calls.append("ours"))
    with attention.own_attention():
        getattr(core, name)(q, k, v, 4, skip_reshape=True)
        assert calls == ["ours"]
    assert getattr(core, name)(q, k, v, 4, skip_reshape=True) is not None
    assert calls == ["ours"]


class Container:
    """A tensor that is taken once, as attention gets it in ComfyUI after 0.30."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor: torch.Tensor | None = tensor

    def take(self) -> torch.Tensor:
        tensor, self.tensor = self.tensor, None
        assert tensor is not None
        return tensor


def wrap_attn(func: Any) -> Any:
    """As in ComfyUI after 0.30: containers go to a function of their own where an attention has one."""

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        kwargs.pop("preferred_attention", None)
        if isinstance(args[0], Container):
            if wrapper.container_function is not None:  # type: ignore[attr-defined]
                return wrapper.container_function(*args, **kwargs)  # type: ignore[attr-defined]
            args = (*(each.take() for each in args[:3]), *args[3:])
        return func(*args, **kwargs)

    wrapper.container_function = None  # type: ignore[attr-defined]
    return wrapper


@pytest.mark.parametrize("own", [False, True])
def test_attention_in_containers_is_ours(own: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = wrap_attn(lambda *args, **kwargs: "theirs")
    if own:
        theirs.container_function = lambda *args, **kwargs: "theirs, in containers"
    monkeypatch.setattr(attention, "core_attention", SimpleNamespace(attention_comfy_kitchen_int8=theirs))
    attention.attach.__wrapped__()
    q, k, v = torch.randn(3, 2, 4, 10, 32)
    with monkeypatch.context() as patch:
        patch.setattr(attention, "attach", lambda: None)
        with attention.own_attention():
            found = theirs(*map(Container, (q, k, v)), 4, skip_reshape=True, preferred_attention=None)
    torch.testing.assert_close(found, core.attention_pytorch(q, k, v, 4, skip_reshape=True))
    assert theirs(*map(Container, (q, k, v)), 4) == ("theirs, in containers" if own else "theirs")


def test_other_threads_keep_theirs() -> None:
    q, k, v = torch.randn(3, 2, 4, 10, 32)
    found: list[torch.Tensor] = []
    with attention.own_attention(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "attention", lambda *args, **kwargs: None)
        thread = threading.Thread(target=lambda: found.append(core.attention_pytorch(q, k, v, 4, skip_reshape=True)))
        thread.start()
        thread.join()
    assert found[0].shape == (2, 10, 128)


def test_override_of_a_node_counts_for_core() -> None:
    q, k, v = torch.randn(3, 2, 4, 10, 32)
    options = {"optimized_attention_override": lambda *args, **kwargs: "theirs"}
    assert core.attention_pytorch(q, k, v, 4, skip_reshape=True, transformer_options=options) == "theirs"


def test_image_attention_equals_core() -> None:
    q, k, v = torch.randn(3, 2, 16, 6, 5)
    torch.testing.assert_close(attention.image_attention(q, k, v), core_vae.normal_attention(q, k, v))
