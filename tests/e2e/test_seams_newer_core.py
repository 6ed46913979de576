"""Stand-ins for code of ComfyUI after 0.30: its patcher, merged layers, attention and models on several GPUs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention, silu

from tests import random_models
from tests.core_models import core_model, psnr
from tests.pack import part
from tests.small_encoders import encoded

from .test_seams_llama_files import BOUNDS, CASES, transformer, written
from .test_seams_lora import kohya, sample

diffusion = part("nodes.loaders.diffusion")
encoders = part("nodes.loaders.text_encoders")
patcher = part("nodes.components.patcher")
weights = part("native.weights")

import comfy.ldm.modules.attention as core_attention  # noqa: E402
import comfy.model_management  # noqa: E402
import comfy.sd  # noqa: E402
import comfy.text_encoders.llama as llama  # noqa: E402
from comfy.model_patcher import ModelPatcher  # noqa: E402
from comfy.patcher_extension import CallbacksMP  # noqa: E402

Models = tuple[Any, Any]
EQUAL = 60.0  # dB
BLOCK = 16  # tokens that are attended to together


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Our MODEL and core's."""
    tensors = random_models.flux()
    path = random_models.write_gguf(tmp_path_factory.mktemp("newer") / "flux.gguf", "flux", tensors)
    return diffusion.load_diffusion(weights.read_header(path), "CPU"), core_model(tensors)


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


class NewerPatcher(ModelPatcher):
    """ModelPatcher as it is after 0.30: made with `fast_disk`, which clones pass on with what they share."""

    def __init__(
        self, model: Any, load_device: Any, offload_device: Any, size: int = 0, weight_inplace_update: bool = False,
        fast_disk: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(model, load_device, offload_device, size, weight_inplace_update)
        self.fast_disk = fast_disk

    def clone(self, disable_dynamic: bool = False, model_override: Any = None, force_deepcopy: bool = False) -> Any:
        model, (backup, buffers, objects, pinned) = model_override or self.get_clone_model_override()
        taken = vars(super().clone(model_override=(model, (backup, buffers, objects, pinned))))
        made = type(self)(
            model, self.load_device, self.offload_device, self.model_size(),
            weight_inplace_update=self.weight_inplace_update, fast_disk=self.fast_disk,
        )  # fmt: skip
        vars(made).update({name: value for name, value in taken.items() if name != "fast_disk"})
        return made


@pytest.fixture
def newer_patcher() -> Iterator[None]:
    """Ours is made from the stand-in."""
    before = patcher.ComponentPatcher.__bases__
    patcher.ComponentPatcher.__bases__ = (NewerPatcher,)
    yield
    patcher.ComponentPatcher.__bases__ = before


def test_a_newer_patcher_clones_loads_and_takes_patches(models: Models, newer_patcher: None) -> None:
    plain = sample(models[1])
    cpu = torch.device("cpu")
    base = patcher.ComponentPatcher(models[0].model, cpu, cpu, fast_disk=True)
    assert base.clone().fast_disk
    assert psnr(sample(base.clone()), plain) >= EQUAL
    patched, core = (comfy.sd.load_lora_for_models(each, None, kohya(), 0.8, 0.0)[0] for each in (base, models[1]))
    assert psnr(sample(patched), sample(core)) >= EQUAL
    comfy.model_management.unload_all_models()
    assert base.loaded_size() == 0
    assert psnr(sample(base), plain) >= EQUAL


class Merged(llama.Attention):
    """Queries, keys and values of one layer, which is made of the file's three as it is loaded."""

    def __init__(self, config: Any, device: Any = None, dtype: Any = None, ops: Any = None) -> None:
        super().__init__(config, device, dtype, ops)
        self.sizes = [getattr(self, f"{name}_proj").out_features for name in "qkv"]
        for name in "qkv":
            delattr(self, f"{name}_proj")
        self.qkv_proj = ops.Linear(
            config.hidden_size, sum(self.sizes), bias=config.qkv_bias, device=device, dtype=dtype
        )

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        parts = [state_dict.pop(f"{prefix}{name}_proj.weight") for name in "qkv"]
        state_dict[f"{prefix}qkv_proj.weight"] = torch.cat(parts)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(self, hidden_states: Tensor, **others: Any) -> Any:
        for name, part_of in zip("qkv", self.qkv_proj(hidden_states).split(self.sizes, -1), strict=True):
            vars(self)[f"{name}_proj"] = lambda _, part_of=part_of: part_of
        return super().forward(hidden_states, **others)


class MergedMLP(llama.MLP):
    """Its first two layers are one, and their product is written over one of them."""

    def __init__(self, config: Any, device: Any = None, dtype: Any = None, ops: Any = None, **others: Any) -> None:
        super().__init__(config, device, dtype, ops, **others)
        width = self.gate_proj.out_features
        del self.gate_proj, self.up_proj
        self.gate_up_proj = ops.Linear(config.hidden_size, 2 * width, bias=False, device=device, dtype=dtype)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        parts = [state_dict.pop(f"{prefix}{name}_proj.weight") for name in ("gate", "up")]
        state_dict[f"{prefix}gate_up_proj.weight"] = torch.cat(parts)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(self, x: Tensor) -> Any:
        gate, up = self.gate_up_proj(x).chunk(2, dim=-1)
        return self.down_proj(silu(gate).mul_(up))


class InPlace(llama.TransformerBlock):
    """Writes its result over what it was given."""

    def forward(self, x: Tensor, **others: Any) -> Any:
        result, kept = super().forward(x, **others)
        return torch.add(result, 0.0, out=x), kept


@pytest.mark.parametrize("stored", ["F16", "Q8_0"])
def test_layers_that_are_merged_at_load(tmp_path: Path, stored: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES["Qwen3 0.6B"]
    tensors = written(case, tmp_path / "encoder.gguf", stored)
    sizes = {f"{case.option}_model_config": dict(case.sizes)}
    core = comfy.sd.load_text_encoder_state_dicts(
        [tensors], embedding_directory=[], model_options={"dtype": torch.float32, **sizes}
    )
    tokens = torch.tensor([[5, 17, 300, 4, 4, 99, 511]])
    expected = encoded(transformer(core), tokens)
    for name, newer in (("Attention", Merged), ("MLP", MergedMLP), ("TransformerBlock", InPlace)):
        monkeypatch.setattr(llama, name, newer)
    header = weights.read_header(tmp_path / "encoder.gguf")
    clip, (held,) = encoders.load_encoders([header], case.type, "CPU", sizes)
    merged = held.parameters["model.layers.1.self_attn.qkv_proj.weight"]
    assert merged.stored == stored
    assert not [name for name in held.shapes() if ".q_proj" in name or ".up_proj" in name]
    found = encoded(transformer(clip), tokens)
    assert float((found - expected).norm() / expected.norm()) <= BOUNDS[stored]


def attention_of(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The override that ModelPatcher.set_model_optimized_attention puts into the options."""

    def optimized_attention_override(_: Any, *args: Any, **kwargs: Any) -> Tensor:
        return function(*args, **kwargs)

    optimized_attention_override.container_function = None  # type: ignore[attr-defined]
    return optimized_attention_override


@pytest.mark.parametrize("name", ["pytorch", "split"])
def test_attention_of_core_by_its_name_changes_nothing(models: Models, name: str) -> None:
    ours, core = (model.clone() for model in models)
    for each in (ours, core):
        override = attention_of(core_attention.get_attention_function(name))
        each.model_options["transformer_options"]["optimized_attention_override"] = override
    assert psnr(sample(ours), sample(core)) >= EQUAL
    assert psnr(sample(ours), sample(models[0])) >= EQUAL


class SparseBlocks:
    """Attention to the blocks of keys that score best, from the second step on: BlockSparseAttention in torch."""

    def __init__(self, keep: int, until: float) -> None:
        self.keep, self.until = keep, until
        self.told: set[tuple[Any, ...]] = set()

    def install(self, options: dict[str, Any]) -> None:
        options["optimized_attention_override"] = self.override

    def override(self, dense: Any, q: Tensor, k: Tensor, v: Tensor, heads: int, *args: Any, **kwargs: Any) -> Tensor:
        if float(kwargs["transformer_options"]["sigmas"][0]) > self.until or not kwargs.get("skip_reshape"):
            result: Tensor = dense(q, k, v, heads, *args, **kwargs)
            return result
        self.told.add(tuple(q.shape))
        tokens = k.shape[2] // BLOCK * BLOCK
        pooled = k[:, :, :tokens].unflatten(2, (-1, BLOCK)).mean(3)
        best = (q @ pooled.transpose(2, 3)).topk(self.keep, dim=-1).indices
        chosen = torch.zeros(*q.shape[:3], tokens // BLOCK, dtype=torch.bool).scatter(3, best, True)
        mask = torch.nn.functional.pad(chosen.repeat_interleave(BLOCK, -1), (0, k.shape[2] - tokens), value=True)
        out = scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return out.transpose(1, 2).flatten(2)


def test_a_block_sparse_attention_counts_as_in_core(models: Models) -> None:
    def with_blocks(model: Any) -> tuple[Any, SparseBlocks]:
        blocks, changed = SparseBlocks(keep=1, until=0.9), model.clone()
        blocks.install(changed.model_options["transformer_options"])
        changed.add_callback_with_key(
            CallbacksMP.ON_PREPARE_STATE, "blocks",
            lambda _, timestep, options: blocks.install(options["transformer_options"]),
        )  # fmt: skip
        return changed, blocks

    (ours, _), (core, _) = map(with_blocks, models)
    found = sample(ours)
    assert psnr(found, sample(core)) >= EQUAL
    assert psnr(found, sample(models[0])) < 40


def test_dividing_a_model_among_gpus_is_refused_in_words(models: Models) -> None:
    with pytest.raises(RuntimeError, match="A GGML model computes on one device, which is chosen in its loader"):
        models[0].clone().deepclone_multigpu(new_load_device=torch.device("cuda:1"))


def test_a_model_that_another_gpu_is_chosen_for_stays_as_it_is(
    models: Models, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from comfy_extras.nodes_multigpu import SelectModelDeviceNode

    second = torch.device("cuda:1")
    monkeypatch.setattr(comfy.model_management, "resolve_gpu_device_option", lambda option: second)
    (kept,) = SelectModelDeviceNode.execute(models[0], "gpu:1").args
    assert "which is chosen in its loader" in caplog.text
    assert torch.equal(sample(kept), sample(models[0]))
