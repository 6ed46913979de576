"""Diffusion models by ComfyUI's detection: where each parameter is in the file, and files that hold something else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests import random_models
from tests.pack import part

build = part("nodes.components.build")
recording = part("nodes.components.recording")
weights = part("native.weights")

Tensors = dict[str, torch.Tensor]
SCALES = ".norm.query_norm.weight", ".norm.key_norm.weight"
MANY = {"depth_single_blocks": 3}


def saved(path: Path, tensors: Tensors) -> Any:
    """The header of a safetensors file of these tensors."""
    save_file({name: value.contiguous() for name, value in tensors.items()}, path)
    return weights.read_header(path)


def original(tensors: Tensors) -> Tensors:
    """FLUX.1 in the names of Black Forest Labs' file."""
    return {name[: -len("weight")] + "scale" if name.endswith(SCALES) else name: x for name, x in tensors.items()}


def behind(prefix: str, tensors: Tensors) -> Tensors:
    return {prefix + name: value for name, value in tensors.items()}


def same(found: Any, tensors: Tensors) -> None:
    """Assert that a set of weights holds exactly these tensors."""
    assert found.parameters.keys() | found.arrays.keys() == tensors.keys()
    for name, parameter in found.parameters.items():
        np.testing.assert_array_equal(weights.read_parameter(parameter), tensors[name].numpy())
    for name, array in found.arrays.items():
        np.testing.assert_array_equal(array, tensors[name].numpy())


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "model."])
@pytest.mark.parametrize("naming", [original, dict])
@pytest.mark.parametrize("guidance", [False, True])
def test_flux_in_every_name(tmp_path: Path, prefix: str, naming: Callable[..., Tensors], guidance: bool) -> None:
    tensors = random_models.flux(guidance_embed=guidance)
    model, found = build.diffusion_model(saved(tmp_path / "flux.safetensors", behind(prefix, naming(tensors))))
    same(found, tensors)
    assert not found.arrays
    assert found.name == ("Flux" if guidance else "FluxSchnell") + " diffusion model"
    assert all(parameter.is_meta for parameter in model.diffusion_model.parameters())


def test_gguf(tmp_path: Path) -> None:
    tensors = random_models.flux()
    random_models.write_gguf(tmp_path / "flux.gguf", "flux", tensors)
    same(build.diffusion_model(weights.read_header(tmp_path / "flux.gguf"))[1], tensors)


def test_another_copy_in_the_file_is_not_used(tmp_path: Path) -> None:
    tensors = random_models.flux()
    copy = behind("a.copy.", {name: torch.zeros_like(value) for name, value in tensors.items()})
    same(build.diffusion_model(saved(tmp_path / "two.safetensors", copy | behind("model.", tensors)))[1], tensors)


def test_a_checkpoint_holds_other_models_too(tmp_path: Path) -> None:
    tensors = random_models.flux()
    whole = {
        **behind("model.diffusion_model.", tensors),
        **behind("text_encoders.t5xxl.transformer.", random_models.t5()),
        **behind("vae.", random_models.vae()),
    }
    same(build.diffusion_model(saved(tmp_path / "all.safetensors", whole))[1], tensors)


def test_flux_of_diffusers(tmp_path: Path) -> None:
    """Queries, keys and values are joined, the halves of a scale and shift change places; in shards too."""
    import comfy.utils

    tensors = random_models.flux()
    config = {"depth": 2, "depth_single_blocks": 2, "hidden_size": 256}
    theirs: Tensors = {}
    taken: set[Any] = set()
    for name, ours in comfy.utils.flux_to_diffusers(config, output_prefix="").items():
        key, window = (ours, None) if isinstance(ours, str) else ours[:2]
        if key not in tensors or (key, window) in taken or "to_qkv_mlp_proj" in name:
            continue  # of another variant, or another name for the same
        taken.add((key, window))
        piece = tensors[key] if window is None else tensors[key].narrow(*window)
        theirs[name] = (comfy.utils.swap_scale_shift(piece) if len(ours) == 3 else piece).clone()
    header = saved(tmp_path / "diffusers.safetensors", theirs)
    half = len(theirs) // 2
    for number, names in ((1, list(theirs)[:half]), (2, list(theirs)[half:])):
        shard = {name: theirs[name] for name in names}
        save_file(shard, tmp_path / f"diffusion_pytorch_model-{number:05}-of-00002.safetensors")
    shards = weights.read_header(tmp_path / "diffusion_pytorch_model-00002-of-00002.safetensors")
    for each in (header, shards):
        _, found = build.diffusion_model(each)
        same(found, tensors)
        assert not found.arrays
    assert len(found.parameters["double_blocks.0.img_attn.qkv.weight"].runs) == 3
    assert len(found.parameters["final_layer.adaLN_modulation.1.weight"].runs) == 2


@pytest.mark.parametrize("missing", ["double_blocks.0.img_mod.lin.bias", "single_blocks.1.linear2.weight"])
def test_a_missing_tensor_is_named(tmp_path: Path, missing: str) -> None:
    tensors = random_models.flux()
    del tensors[missing]
    with pytest.raises(weights.WeightFileError, match=f"flux.safetensors seems to be .* lacks {missing}"):
        build.diffusion_model(saved(tmp_path / "flux.safetensors", tensors))


def test_a_bias_without_its_layer_is_named(tmp_path: Path) -> None:
    """Without that layer the others would be a FLUX.1 schnell."""
    tensors = random_models.flux(guidance_embed=True)
    del tensors["guidance_in.in_layer.weight"]
    with pytest.raises(weights.WeightFileError, match="guidance_in.in_layer.bias but no guidance_in.in_layer.weight"):
        build.diffusion_model(saved(tmp_path / "flux.safetensors", tensors))


def test_a_missing_block_is_named(tmp_path: Path) -> None:
    tensors = random_models.flux(**MANY)
    held = {name: value for name, value in tensors.items() if not name.startswith("single_blocks.1.")}
    with pytest.raises(weights.WeightFileError, match=r"has single_blocks.2.linear1.bias .* but no single_blocks.1"):
        build.diffusion_model(saved(tmp_path / "flux.safetensors", held))


def test_a_tensor_of_another_size_is_named(tmp_path: Path) -> None:
    tensors = random_models.flux()
    tensors["double_blocks.1.img_mlp.2.weight"] = torch.ones(256, 96)
    with pytest.raises(weights.WeightFileError, match=r"flux.safetensors do not .*double_blocks.1.img_mlp.2.weight"):
        build.diffusion_model(saved(tmp_path / "flux.safetensors", tensors))


def test_whole_numbers_are_no_weights(tmp_path: Path) -> None:
    tensors = random_models.flux()
    tensors["img_in.weight"] = torch.ones(256, 64, dtype=torch.int8)
    with pytest.raises(weights.WeightFileError, match=r"img_in.weight is stored as I8"):
        build.diffusion_model(saved(tmp_path / "flux.safetensors", tensors))


FOREIGN: dict[str, tuple[str, Callable[[], Tensors] | str]] = {
    "t5": ("a text encoder (T5_BASE)", random_models.t5),
    "clip_l": ("a text encoder (CLIP_L)", random_models.clip_l),
    "vae": ("a VAE", random_models.vae),
    "lora": ("a LoRA", "lora_unet_double_blocks_0_img_attn_proj.lora_down.weight"),
    "controlnet": ("a ControlNet", lambda: random_models.flux() | {"controlnet_blocks.0.weight": torch.ones(4, 4)}),
    "language": ("a language model", lambda: {"token_embd.weight": torch.ones(4, 4)}),
    "unknown": ("nor any model known here", "a.b"),
}


@pytest.mark.parametrize("foreign", FOREIGN)
def test_another_kind_of_model_is_told_what_it_is(tmp_path: Path, foreign: str) -> None:
    says, tensors = FOREIGN[foreign]
    held = {tensors: torch.ones(4, 4)} if isinstance(tensors, str) else tensors()
    header = saved(tmp_path / "model.safetensors", held)
    with pytest.raises(weights.WeightFileError) as caught:
        build.diffusion_model(header)
    assert says in str(caught.value)
    assert str(caught.value).startswith(header.path)


class TestRecording:
    """Tensors after conversions: rows of the file, or computed from it."""

    @pytest.fixture
    def recorded(self, tmp_path: Path) -> Any:
        matrix = np.arange(8 * 64, dtype=np.float32).reshape(8, 64)
        writer = gguf.GGUFWriter(tmp_path / "a.gguf", "test")
        writer.add_tensor("q", gguf.quants.quantize(matrix, gguf.GGMLQuantizationType.Q8_0),
                          raw_dtype=gguf.GGMLQuantizationType.Q8_0)  # fmt: skip
        writer.add_tensor("line", np.arange(6, dtype=np.float32))
        writer.add_tensor("half", matrix.astype(np.float16))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return recording.Recording(weights.read_header(tmp_path / "a.gguf"))

    @pytest.mark.parametrize(
        "convert",
        [
            lambda x: x, lambda x: x[2:5], lambda x: x.float(), lambda x: x[2:5].clone()[1:],
            lambda x: x.chunk(4)[3].contiguous(), lambda x: x.reshape(8, 8, 8)[3], lambda x: x.detach()[None],
            lambda x: x.reshape(2, 4, 64).transpose(0, 1).reshape(8, 64), lambda x: x[1::2].contiguous(),
            lambda x: x.view(2, 2, 2, 64).transpose(1, 2)[1].contiguous(),
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("name", ["q", "half"])
    def test_rows_stay_in_the_file(self, recorded: Any, name: str, convert: Any) -> None:
        with recorded:
            made = convert(recorded.state_dict[name])
        expected = convert(torch.from_numpy(weights.read_parameter(recorded.parameter("w", recorded.state_dict[name]))))
        if name == "q" and made.numel() % 32:
            assert recorded.parameter("w", made) is None
            return
        found = recorded.parameter("w", made)
        assert found.stored == {"q": "Q8_0", "half": "F16"}[name]
        np.testing.assert_array_equal(weights.read_parameter(found), expected.float().numpy())

    @pytest.mark.parametrize(
        "convert",
        [
            lambda x: x.t(), lambda x: x[:, :32], lambda x: torch.cat([x, x], 1), lambda x: x * 2 + 1,
            lambda x: x.t().contiguous()[3:], lambda x: torch.cat([x[4:].t(), x[:4].t()]),
            lambda x: x.view(2, 4, 64).transpose(0, 1).contiguous()[1:],
            lambda x: x.view(2, 4, 64).transpose(0, 1).clone().transpose(0, 1),
            lambda x: x.t().clone()[3:], lambda x: torch.stack([x, x])[1], lambda x: x.split(4)[0].float().sum(0),
        ],
    )  # fmt: skip
    def test_what_is_no_row_is_computed(self, recorded: Any, convert: Any) -> None:
        with recorded:
            made = convert(recorded.state_dict["half"])
        expected = convert(torch.arange(8 * 64, dtype=torch.float16).reshape(8, 64))
        assert recorded.knows(made)
        assert recorded.parameter("w", made) is None
        torch.testing.assert_close(recorded.values(made), expected)

    @pytest.mark.parametrize("name", ["q", "half"])
    def test_rows_in_another_order_stay_in_the_file(self, recorded: Any, name: str) -> None:
        def convert(x: torch.Tensor) -> torch.Tensor:
            return torch.cat([x[6:], x[:2], x[2:4]])[1:]

        with recorded:
            made = convert(recorded.state_dict[name])
        expected = convert(torch.from_numpy(weights.read_parameter(recorded.parameter("w", recorded.state_dict[name]))))
        found = recorded.parameter("w", made)
        assert (found.type, len(found.runs)) == ({"q": "Q8_0", "half": "F16"}[name], 2)
        np.testing.assert_array_equal(weights.read_parameter(found), expected.numpy())

    def test_runs_of_several_types_become_one(self, recorded: Any) -> None:
        with recorded:
            made = torch.cat([recorded.state_dict["q"], recorded.state_dict["half"]])
        found = recorded.parameter("w", made)
        assert (found.type, [run.stored for run in found.runs]) == ("F16", ["Q8_0", "F16"])
        both = [weights.read_parameter(recorded.parameter("w", recorded.state_dict[name])) for name in ("q", "half")]
        np.testing.assert_array_equal(weights.read_parameter(found), np.concatenate(both))

    def test_values_that_are_asked_for_are_read(self, recorded: Any) -> None:
        with recorded:
            line = recorded.state_dict["line"]
            assert line[3].item() == 3.0
            assert bool((line.std() > 1).item())
            assert float(line.sum()) == 15.0
            assert not torch.equal(line, line * 2)

    def test_copies_into_a_module_are_known(self, recorded: Any) -> None:
        layer = torch.nn.Linear(64, 8, bias=False)
        before = layer.weight.clone()
        with recorded, torch.no_grad():
            layer.load_state_dict({"weight": recorded.state_dict["q"]})
        assert recorded.parameter("w", layer.weight).stored == "Q8_0"
        torch.testing.assert_close(layer.weight, before)

    def test_what_is_written_in_parts_is_found_or_computed(self, recorded: Any) -> None:
        half = recorded.state_dict["half"]
        with recorded, torch.no_grad():
            whole = torch.empty(16, 64)
            whole[8:] = half
            whole[:4] = half[4:]
            whole[4:8] = half.flip(1)[:4]
        read = torch.arange(8 * 64, dtype=torch.float32).reshape(8, 64)
        expected = torch.cat([read[4:], read.flip(1)[:4], read])
        torch.testing.assert_close(recorded.values(whole), expected)
        assert recorded.parameter("w", whole) is None
        for rows in (slice(8, 16), slice(9, 12), slice(0, 4)):
            found = recorded.parameter("w", whole[rows])
            np.testing.assert_array_equal(weights.read_parameter(found), expected[rows].numpy())
        assert recorded.parameter("w", whole[3:6]) is None

    def test_a_tensor_overwritten_by_its_own_halves(self, recorded: Any) -> None:
        """As core turns scale and shift around in the file's tensor itself."""
        half = recorded.state_dict["half"]
        with recorded, torch.no_grad():
            first, second = half.chunk(2)
            half[:] = torch.cat([second, first])
        read = torch.arange(8 * 64, dtype=torch.float16).reshape(8, 64)
        torch.testing.assert_close(recorded.values(half), torch.cat([read[4:], read[:4]]))

    def test_other_changes_in_place_are_refused(self, recorded: Any) -> None:
        with recorded, pytest.raises(NotImplementedError, match="in place"):
            recorded.state_dict["half"].add_(1)
