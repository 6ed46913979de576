"""Whole checkpoints of families with other encoders, autoencoders and names than Stable Diffusion's.

One file of few channels and layers in the names of published ones, our loader against core's: text or picture to
conditioning, two steps, decoding. No line of the pack names one of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests import checkpoints, small_encoders
from tests.checkpoints import Tensors, behind
from tests.core_models import relative_error
from tests.pack import part

loader = part("nodes.loaders.checkpoint")
placement = part("native.placement")
tile_choice = part("nodes.components.tile_choice")
weights = part("native.weights")

import comfy.clip_model  # noqa: E402
import comfy.clip_vision  # noqa: E402
import comfy.ops  # noqa: E402
import comfy.sd  # noqa: E402
import comfy.text_encoders.bert as bert  # noqa: E402
import comfy.text_encoders.llama as llama  # noqa: E402
import comfy.text_encoders.t5 as t5  # noqa: E402
from comfy_extras.nodes_video_model import SVD_img2vid_Conditioning  # noqa: E402

from ..parity.model_cases import randomize  # noqa: E402
from ..templates.others import open_clip_vision_h  # noqa: E402
from ..templates.small_files import filled  # noqa: E402
from .any_diffusion import SMALL, VIDEO  # noqa: E402
from .small_diffusion import Small, unet  # noqa: E402
from .test_seams_any_diffusion import sampled  # noqa: E402
from .vae_kinds import KINDS, VAEKind  # noqa: E402

# Relative L2: encoders in F16, with which the CPU's activations are F16 as well; T5's attention has no scale.
BOUND, BOUND_OF_TEXT = 4e-3, 2e-2
PROMPT = "a red (square:1.2) and a dog"
F32 = {"dtype": torch.float32}
COMFY = Path(comfy.clip_model.__file__).parent
DIFFUSION = {small.kind: small for small in SMALL}
AUTOENCODERS = {kind.name: kind for kind in KINDS}
TEXT, WORDS, TOWER = 48, 32128, 64  # channels of a text, tokens that T5 knows, channels of a vision encoder


@dataclass(frozen=True)
class Encoder:
    """A text encoder of the class `core`. file: its configuration in core, if any; sizes: those that are small here.

    stored: the state dict in the names of the file.
    """

    core: Any
    file: str
    sizes: Mapping[str, int]
    stored: Callable[[Tensors], Tensors] = lambda tensors: behind("transformer.", tensors)

    def tensors(self) -> Tensors:
        """As the file has them."""
        said = json.loads((COMFY / self.file).read_text(encoding="utf-8")) if self.file else {}
        config = said | dict(self.sizes)
        module = randomize(self.core(config, torch.float32, "cpu", comfy.ops.disable_weight_init))
        return self.stored({name: value.half() for name, value in module.state_dict().items()})


@dataclass(frozen=True)
class Whole:
    """A checkpoint: the beginnings of the names in it, and what has them.

    vision: of a CLIP vision model's. tokenizer: its name in the file. words: beside the prompt.
    """

    small: Small
    autoencoder: VAEKind
    encoders: Mapping[str, Encoder] = field(default_factory=dict)
    model: str = "model.diffusion_model."
    vae: str = "vae."
    vision: str = ""
    tokenizer: str = ""
    words: Mapping[str, Any] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write the file."""
        made = self.small.tensors()
        found = {("" if name in self.small.beside else self.model) + name: value for name, value in made.items()}
        found |= behind(self.vae, self.autoencoder.tensors())
        for prefix, encoder in self.encoders.items():
            found |= behind(prefix, encoder.tensors())
        if self.tokenizer:
            found[self.tokenizer] = small_encoders.spiece_tensor("unigram")
        if self.vision:
            found |= behind(self.vision, filled(open_clip_vision_h(TOWER, 17, TEXT)))
        said = (json.loads(each.get("config", "{}")) for each in (self.small.metadata, self.autoencoder.metadata))
        config = {key: value for each in said for key, value in each.items()}
        metadata = {"config": json.dumps(config)} if config else {}
        save_file({name: value.contiguous() for name, value in found.items()}, path, metadata)

    @contextmanager
    def small_in_core(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """Within it core builds each part as small as the file has it."""
        sizes = {encoder.core: encoder.sizes for encoder in self.encoders.values()}
        small_encoders.shrink(monkeypatch, lambda core: sizes[core])
        small_encoders.small_towers(monkeypatch)
        made = comfy.clip_vision.ClipVisionModel.__init__
        tower = {
            "hidden_size": TOWER, "num_attention_heads": 2, "intermediate_size": 4 * TOWER, "image_size": 56,
            "projection_dim": TEXT,
        }  # fmt: skip
        monkeypatch.setattr(
            comfy.clip_vision.ClipVisionModel, "__init__",
            lambda model, config: made(model, json.loads(Path(config).read_text(encoding="utf-8")) | tower),
        )  # fmt: skip
        with self.small.detection(), self.autoencoder.small():
            yield


def t5_of(file: str, width: int = TEXT, words: int = WORDS) -> Encoder:
    """A T5 of that configuration."""
    sizes = {"d_model": width, "d_kv": 16, "d_ff": 64, "num_heads": 3, "num_layers": 2, "vocab_size": words}
    return Encoder(t5.T5, f"text_encoders/{file}.json", sizes)


def open_clip_g() -> Encoder:
    """CLIP-G in open_clip's names."""
    sizes = {"num_hidden_layers": checkpoints.LAYERS, "intermediate_size": checkpoints.INNER}
    return Encoder(comfy.clip_model.CLIPTextModel, "clip_config_bigg.json", sizes,
                   stored=lambda tensors: behind("model.", checkpoints.open_clip(tensors)))  # fmt: skip


def language_model(core: Any) -> Encoder:
    """A language model with its whole vocabulary."""
    sizes = {"hidden_size": TEXT, "num_hidden_layers": 3, "intermediate_size": 64}
    return Encoder(core, "", sizes | {"num_attention_heads": 4, "num_key_value_heads": 2})


BERT = {"hidden_size": TEXT, "num_attention_heads": 2, "intermediate_size": 64, "num_hidden_layers": 2}
OF_HUNYUAN_DIT = DIFFUSION["HunyuanDiT"].sizes | {"text_len": 77, "text_len_t5": 256}
PICTURES = replace(AUTOENCODERS["SD1.5, SDXL"], narrow={"comfy.sd:AutoencoderKL": {"ch": 32, "num_res_blocks": 1}})
CASES = {
    "SDXL refiner": Whole(
        replace(DIFFUSION["SDXLRefiner"], start=unet(adm_in_channels=2560, context_dim=1280)), PICTURES,
        {"conditioner.embedders.0.": open_clip_g()}, vae="first_stage_model.",
    ),
    "AuraFlow": Whole(
        DIFFUSION["AuraFlow"], PICTURES, {"text_encoders.pile_t5xl.": t5_of("t5_pile_config_xl")}, model="model.",
    ),
    "HunyuanDiT": Whole(
        replace(DIFFUSION["HunyuanDiT"], sizes=OF_HUNYUAN_DIT, given={}), PICTURES, {
            "text_encoders.hydit_clip.": Encoder(bert.BertModel, "text_encoders/hydit_clip.json", BERT),
            "text_encoders.mt5xl.": t5_of("mt5_config_xl", 64, 512),
        }, model="model.", tokenizer="text_encoders.mt5xl.spiece_model",
    ),
    "LTX-Video": Whole(
        replace(DIFFUSION["LTXV"], sizes={"caption_channels": TEXT}), AUTOENCODERS["LTX-Video 0.9.5, LTX-2"],
        {"text_encoders.t5xxl.": t5_of("t5_config_xxl")},
    ),
    "Stable Audio": Whole(
        DIFFUSION["StableAudio"], AUTOENCODERS["Stable Audio"],
        {"text_encoders.t5base.": t5_of("t5_config_base", 768)}, "model.model.", "pretransform.model.",
    ),
    "ACE-Step": Whole(
        replace(DIFFUSION["ACEStep"], sizes=DIFFUSION["ACEStep"].sizes | {"lyric_encoder_vocab_size": 6693}),
        AUTOENCODERS["ACE-Step"], {"text_encoders.umt5base.": t5_of("umt5_config_base", TEXT, 512)},
        tokenizer="text_encoders.spiece_model", words={"lyrics": "[verse]\nla la la"},
    ),
    "SVD": Whole(
        replace(DIFFUSION["SVD_img2vid"], start=unet(in_channels=8, adm_in_channels=768, **VIDEO)),
        AUTOENCODERS["SVD"], vae="first_stage_model.", vision="conditioner.embedders.0.open_clip.model.visual.",
    ),
    "Z-Image": Whole(
        DIFFUSION["ZImage"], AUTOENCODERS["FLUX.1, SD3"], {"text_encoders.qwen3_4b.": language_model(llama.Qwen3_4B)},
    ),
    "Qwen-Image": Whole(
        DIFFUSION["QwenImage"], AUTOENCODERS["Qwen-Image"],
        {"text_encoders.qwen25_7b.": language_model(llama.Qwen25_7BVLI)},
    ),
    "Wan 2.1": Whole(
        replace(DIFFUSION["WAN21_T2V"], sizes={"text_dim": TEXT}), AUTOENCODERS["Wan 2.1"],
        {"text_encoders.umt5xxl.": t5_of("umt5_config_xxl", TEXT, 512)}, tokenizer="text_encoders.spiece_model",
    ),
}  # fmt: skip


def conditioning(case: Whole, clip: Any, vae: Any, vision: Any) -> list[Any]:
    """Of a text, or of a picture where there are eyes instead."""
    if case.vision:
        picture = torch.rand(1, 64, 96, 3, generator=torch.Generator().manual_seed(2))
        return SVD_img2vid_Conditioning().encode(vision, picture, vae, 96, 64, 1, 127, 6, 0.0)[0]
    return clip.encode_from_tokens_scheduled(clip.tokenize(PROMPT, **case.words))


@pytest.mark.turns(10)
@pytest.mark.parametrize("name", CASES)
def test_from_prompt_to_result_as_core(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case, path = CASES[name], tmp_path / "whole.safetensors"
    with case.small_in_core(monkeypatch):
        case.write(path)
        with torch.inference_mode():  # as ComfyUI runs nodes
            (model, clip, vae, vision), said, warnings = loader.load_checkpoint(
                weights.read_header(path), dict.fromkeys(loader.PARTS, placement.Placement("CPU")),
                tile_choice.TileChoice("off", 0, 64),
            )  # fmt: skip
        core_model, core_clip, core_vae, core_vision = comfy.sd.load_checkpoint_guess_config(
            str(path), output_clipvision=True, embedding_directory=[], model_options=F32, te_model_options=F32
        )
    assert type(model.model.model_config).__name__ == case.small.kind
    assert type(model.model) is type(core_model.model)
    assert len(said) == 3 + bool(case.vision)
    assert not warnings
    given = conditioning(case, clip, vae, vision)
    expected = conditioning(case, core_clip, core_vae, core_vision)
    ((text, more),), ((core_text, core_more),) = given, expected
    assert more.keys() == core_more.keys()
    assert relative_error(text, core_text) <= BOUND_OF_TEXT
    latents, core_latents = (
        sampled(each, case.small, lambda usual, found=found: merged(usual, found))
        for each, found in ((model, given), (core_model, expected))
    )
    assert core_latents.isfinite().all()
    assert relative_error(latents, core_latents) <= BOUND
    pixels = torch.rand(case.autoencoder.pixels, generator=torch.Generator().manual_seed(6))
    for ours, cores, given in ((vae.encode, core_vae.encode, pixels), (vae.decode, core_vae.decode, latents)):
        assert relative_error(repeated(ours, given), repeated(cores, given)) <= BOUND
    path.unlink()  # it is large


def repeated(function: Callable[[torch.Tensor], torch.Tensor], given: torch.Tensor) -> torch.Tensor:
    """Its result; some autoencoders mix noise in."""
    torch.manual_seed(1)
    with torch.inference_mode():
        return function(given)


def merged(usual: list[Any], found: list[Any]) -> list[Any]:
    """The conditioning, with what a model is given besides."""
    ((_, random),), ((text, more),) = usual, found
    return [[text, {key: value for key, value in random.items() if key != "attention_mask"} | more]]
