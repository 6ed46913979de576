"""Functions of other nodes in a model, as well-known packs put them there: traced, called at every step, or refused."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from tests import random_models
from tests.core_models import core_model, psnr
from tests.pack import part

from .test_seams_lora import sample

diffusion = part("nodes.loaders.diffusion")
foreign_functions = part("nodes.components.foreign_functions")
kept_values = part("nodes.components.kept_values")
weights = part("native.weights")

import comfy.model_patcher  # noqa: E402
import comfy.patcher_extension  # noqa: E402

Models = tuple[Any, Any]
EQUAL = 60.0  # dB


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Our MODEL and core's."""
    tensors = random_models.flux()
    path = random_models.write_gguf(tmp_path_factory.mktemp("foreign") / "flux.gguf", "flux", tensors)
    return diffusion.load_diffusion(weights.read_header(path), "CPU"), core_model(tensors)


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def same(models: Models, change: Callable[[Any], Any], steps: int = 2) -> None:
    """Both are changed alike, and ours is then as it was before."""
    plain = sample(models[0], steps)
    ours, core = (sample(change(model.clone()), steps) for model in models)
    assert psnr(ours, core) >= EQUAL
    assert psnr(ours, plain) < 40
    assert torch.equal(sample(models[0], steps), plain)


def dimmed(self: Any, img: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """In the place of Flux.forward_orig, as PuLID and NegPip have theirs."""
    result: Tensor = type(self).forward_orig(self, 0.8 * img, *args, **kwargs)
    return result


def test_a_replaced_method_counts(models: Models) -> None:
    """As an object patch; before that a node without effect (PuLID-Flux #41)."""

    def change(model: Any) -> Any:
        module = model.model.diffusion_model
        model.add_object_patch("diffusion_model.forward_orig", types.MethodType(dimmed, module))
        return model

    same(models, change)


def test_a_method_replaced_for_a_call_counts(models: Models) -> None:
    """As TeaCache does: in a wrapper around the call, by unittest.mock's patch."""

    def change(model: Any) -> Any:
        module = model.model.diffusion_model

        def wrapper(apply: Any, given: dict[str, Any]) -> Tensor:
            method = dimmed.__get__(module, type(module))
            with patch.multiple(module, forward_orig=method):
                result: Tensor = apply(given["input"], given["timestep"], **given["c"])
                return result

        model.set_model_unet_function_wrapper(wrapper)
        return model

    same(models, change)


def test_a_block_that_is_replaced(models: Models) -> None:
    """With a tensor of the function's own, as IPAdapter and PuLID add one."""
    added = torch.randn(1, 1, random_models.FLUX["hidden_size"], generator=torch.Generator().manual_seed(4))

    def replaced(args: dict[str, Any], extra: dict[str, Any]) -> Any:
        out = extra["original_block"](args)
        out["img"] = out["img"] + 0.5 * added
        return out

    def change(model: Any) -> Any:
        model.set_model_patch_replace(replaced, "dit", "double_block", 0)
        return model

    same(models, change)


def test_an_attention_override(models: Models) -> None:
    def sharper(function: Any, q: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        result: Tensor = function(3.0 * q, *args, **kwargs)
        return result

    def change(model: Any) -> Any:
        model.model_options["transformer_options"]["optimized_attention_override"] = sharper
        return model

    same(models, change)


class Fading:
    """A patch that keeps how often it was called."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, out: Tensor, options: dict[str, Any]) -> Tensor:
        self.calls += 1
        return out * (0.2 if self.calls % 3 else 2.0)


def test_a_function_that_keeps_values_is_called_at_every_step(models: Models) -> None:
    calls = []

    def change(model: Any) -> Any:
        calls.append(Fading())
        model.set_model_attn1_output_patch(calls[-1])
        return model

    same(models, change)
    assert calls[0].calls == calls[1].calls == 8


def test_the_shapes_of_what_a_function_keeps_make_another_trace() -> None:
    """As those of core's Flux KV Cache, whose keys come from its cache after the first step."""

    class Cache:
        def __init__(self) -> None:
            self.kept: dict[str, Tensor] = {}

        def __call__(self, *_: Any) -> None: ...

    cache, another = Cache(), Cache()
    empty = kept_values.form_of(cache)
    cache.kept["0"], another.kept["0"] = torch.zeros(4, 2), torch.ones(4, 2)
    assert kept_values.form_of(cache) != empty
    assert kept_values.form_of(cache) == kept_values.form_of(another)
    another.kept["0"] = torch.zeros(5, 2)
    assert kept_values.form_of(cache) != kept_values.form_of(another)


def test_a_function_that_asks_for_values_is_called_at_every_step(models: Models) -> None:
    def limited(out: Tensor, options: dict[str, Any]) -> Tensor:
        largest = out.abs().max().item()
        return out.clamp(-0.3 * largest, 0.1 * largest * (1 + options["block_index"]))

    def change(model: Any) -> Any:
        model.set_model_attn1_output_patch(limited)
        return model

    same(models, change)


def test_what_hangs_on_the_step_counts_at_each(models: Models) -> None:
    def late(out: Tensor, options: dict[str, Any]) -> Tensor:
        return 0.2 * out if options["sigmas"][0] < 0.9 else out

    def change(model: Any) -> Any:
        model.set_model_attn1_output_patch(late)
        return model

    same(models, change)


def cached(self: Any, img: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """As TeaCache: what the step before gave, where the picture has hardly changed."""
    before = getattr(self, "before", None)
    if before is not None and (img - before).abs().mean().item() < 0.1:
        return before
    self.before = img
    result: Tensor = type(self).forward_orig(self, img, *args, **kwargs)
    return result


def test_a_method_that_keeps_values_is_refused_by_name(models: Models) -> None:
    ours = models[0].clone()
    ours.add_object_patch("diffusion_model.forward_orig", types.MethodType(cached, ours.model.diffusion_model))
    with pytest.raises(NotImplementedError, match=r"\(cached of .*\)\. It keeps values in the model.*remove that node"):
        sample(ours)
    assert torch.isfinite(sample(models[0])).all()


def test_a_block_that_keeps_values_is_refused_by_name(models: Models) -> None:
    found: list[Tensor] = []

    def recorded(args: dict[str, Any], extra: dict[str, Any]) -> Any:
        out = extra["original_block"](args)
        found.append(out["img"])
        return out

    ours = models[0].clone()
    ours.set_model_patch_replace(recorded, "dit", "double_block", 0)
    with pytest.raises(NotImplementedError, match=r"recorded of .*keeps values from one step to the next"):
        sample(ours)
    assert found == []


def test_what_a_block_gives_is_kept(models: Models) -> None:
    """As nodes that look at a layer: computed with the model, at every step anew, without an island."""
    found: list[dict[str, Tensor]] = []

    def change(model: Any) -> Any:
        kept: dict[str, Tensor] = {}
        found.append(kept)

        def recorded(args: dict[str, Any], extra: dict[str, Any]) -> Any:
            out = extra["original_block"](args)
            kept["img"] = out["img"]
            return {**out, "img": 0.5 * out["img"]}

        model.set_model_patch_replace(recorded, "dit", "double_block", 0)
        return model

    with patch.object(foreign_functions, "as_one_step", side_effect=AssertionError("an island")):
        same(models, change)
    ours, core = (each["img"] for each in found)
    assert psnr(ours, core) >= EQUAL


def test_what_was_kept_is_not_a_constant_of_the_trace(models: Models) -> None:
    """As caches of features: what the step before has left is read at the next, so torch calls the function."""

    def change(model: Any) -> Any:
        before = None

        def eased(out: Tensor, options: dict[str, Any]) -> Tensor:
            nonlocal before
            if options["block_index"]:
                return out
            out = out if before is None else 3.0 * out - before
            before = out
            return out

        model.set_model_attn1_output_patch(eased)
        return model

    same(models, change, steps=4)


@pytest.mark.parametrize("as_nodes_do", [True, False])
def test_what_is_written_in_place_is_kept(models: Models, as_nodes_do: bool) -> None:
    def change(model: Any) -> Any:
        with torch.inference_mode(as_nodes_do):
            total = torch.zeros(())

        def drifting(out: Tensor, options: dict[str, Any]) -> Tensor:
            if options["block_index"]:
                return out
            out = out + total
            total.add_(0.5 * out.abs().mean())
            return out

        model.set_model_attn1_output_patch(drifting)
        return model

    same(models, change, steps=4)


def test_a_function_that_needs_layers_is_refused(models: Models) -> None:
    ours = models[0].clone()
    module = ours.model.diffusion_model

    def forward_orig(img: Tensor, *args: Any, **kwargs: Any) -> Any:
        return module.img_in(img)

    ours.add_object_patch("diffusion_model.forward_orig", forward_orig)
    with pytest.raises(NotImplementedError, match="reaches into the model for its layer img_in"):
        sample(ours)


class Mixing(torch.nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = torch.nn.Linear(width, width)


class WithModel:
    """A function that brings a model, which it names to ComfyUI, and of which it calls a layer."""

    def __init__(self, patcher: Any) -> None:
        self.patcher = patcher

    def models(self) -> list[Any]:
        return [self.patcher]

    def __call__(self, out: Tensor, options: dict[str, Any]) -> Tensor:
        return out + self.patcher.model.mix(options["seen"])


WithModel.__module__ = "comfy.a_patch"  # what ComfyUI's own objects hold is not looked into


def test_a_layer_of_another_model_is_computed_between_steps(models: Models) -> None:
    """It gets what a function before it has put into the options, and asks for no values where shapes are wanted."""
    with torch.inference_mode(False):
        real = Mixing(models[1].model.diffusion_model.hidden_size).requires_grad_(False)
        made, held = part("nodes.components.memory_weights").module_in_memory(real, "a model")
    component = part("nodes.components.core_module").CoreModule(made, held, part("native.placement").Placement("CPU"))
    cpu = torch.device("cpu")
    other = part("nodes.components.patcher").ComponentPatcher(component, cpu, cpu)
    theirs = comfy.model_patcher.ModelPatcher(real, cpu, cpu)

    def change(model: Any) -> Any:
        def seen(out: Tensor, options: dict[str, Any]) -> Tensor:
            options["seen"] = out.tanh()
            return out

        model.set_model_attn1_output_patch(seen)
        model.set_model_attn1_output_patch(WithModel(other if model.model is models[0].model else theirs))
        return model

    with patch.object(torch.random, "fork_rng", side_effect=AssertionError):  # of functions that ask for values
        same(models, change)


def test_torch_compile_changes_nothing(models: Models) -> None:
    ours = models[0].clone()

    def wrapper(executor: Any, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("called")

    ours.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.APPLY_MODEL, "torch.compile", wrapper)
    assert torch.equal(sample(ours), sample(models[0]))
