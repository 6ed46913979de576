"""The model files that templates name: of what each is made, and the same files with headers of the real size alone.

A row's pattern is a regular expression that a file's name begins with; the first row that fits counts. The form in
which weights are stored follows from the name (storage.py), where the row does not say.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import autoencoders, others, patches
from .diffusion import DIFFUSION
from .encoders import ENCODERS
from .storage import STORAGES, HollowFile, Shapes, storage_of

MODEL, VAE = "model.diffusion_model.", "first_stage_model."  # as checkpoints call them
_TOKENIZER = "text_encoders."  # where checkpoints have it
_VAE = "VAE "  # what the names of autoencoders begin with here, as models have the same
_LORAS, _CHECKPOINTS = _FOLDERS = "loras", "checkpoints"
_ENDS = re.compile(r"(^|\.)\d+\.")


@dataclass(frozen=True)
class Part:
    """The model that a file holds under a prefix, by its name in the tables of this folder. stored: as STORAGES has it.

    rank: of a LoRA for that diffusion model; 0: the model itself.
    """

    name: str
    prefix: str = ""
    stored: str = ""
    rank: int = 0

    def shapes(self) -> Shapes:
        """Names and shapes, without the prefix."""
        if self.rank:
            return lora((DIFFUSION.get(self.name) or ENCODERS[self.name]).shapes(), self.rank)
        if self.name in DIFFUSION:
            return DIFFUSION[self.name].shapes()
        if self.name in ENCODERS:
            return ENCODERS[self.name].shapes()
        if self.name.startswith(_VAE):
            return autoencoders.shapes(self.name.removeprefix(_VAE))
        made = others.OTHERS.get(self.name) or patches.PATCHES.get(self.name)
        if made is None:
            raise NoStructure(f"the structure of {self.name} is not known here")
        return made()


@dataclass(frozen=True)
class ModelRow:
    """Files whose names begin with `pattern`, and what they hold. folder: the only one, "" for others than these."""

    pattern: str
    parts: tuple[Part, ...]
    folder: str = ""


class NoStructure(LookupError):
    """A file of which nothing is known here."""


def row_of(folder: str, name: str) -> ModelRow:
    """The row of a file. Raises NoStructure."""
    only = folder if folder in _FOLDERS else ""
    found = next((row for row in ROWS if row.folder == only and re.match(row.pattern, name, re.IGNORECASE)), None)
    if found is None:
        raise NoStructure(f"the structure of {folder}/{name} is not known here")
    return found


def hollow(folder: str, name: str) -> HollowFile:
    """A file of the real size of that name. Raises NoStructure."""
    file = HollowFile()
    config: dict[str, Any] = {}
    for part in row_of(folder, name).parts:
        STORAGES[part.stored or storage_of(name)](file, part.prefix, part.shapes())
        if part.name in ENCODERS and not part.rank:
            for key, content in ENCODERS[part.name].contents().items():
                file.add_bytes((_TOKENIZER if part.prefix.startswith(_TOKENIZER) else part.prefix) + key, content)
        if part.name in DIFFUSION and not part.rank:
            config |= json.loads(DIFFUSION[part.name].metadata.get("config", "{}"))
        config |= autoencoders.CONFIG.get(part.name.removeprefix(_VAE), {})
        config |= others.CONFIG.get(part.name, {})
    if config:
        file.metadata["config"] = json.dumps(config)
    return file


def write_hollow(models: Path, files: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """As write_absent, over zeros."""
    return write_absent(models, files, lambda folder, name, path: hollow(folder, name).write(path))


def write_absent(
    models: Path, files: tuple[tuple[str, str], ...], write: Callable[[str, str, Path], object]
) -> dict[str, str]:
    """Write those files (folder, name) that are not there; returns why a file is missing, by its name."""
    missing = {}
    for folder, name in files:
        path = models / folder / name
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(folder, name, path)
        except NoStructure as reason:
            missing[name] = str(reason)
        except Exception as error:  # of core's classes; the others are made
            missing[name] = f"{name} cannot be made: {type(error).__name__}: {str(error)[:300]}"
    return missing


def lora(shapes: Shapes, rank: int) -> Shapes:
    """A low-rank pair for each matrix of the blocks, in ComfyUI's plain names."""
    found: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes.items():
        if len(shape) == 2 and name.endswith(".weight") and _ENDS.search(name) and math.prod(shape) >= 1 << 20:
            layer = "diffusion_model." + name.removesuffix(".weight")
            found[f"{layer}.lora_A.weight"], found[f"{layer}.lora_B.weight"] = (rank, shape[1]), (shape[0], rank)
    return found


def _row(pattern: str, *names: str, stored: str = "") -> ModelRow:
    return ModelRow(pattern, tuple(Part(name, stored=stored) for name in names))


def _lora(pattern: str, name: str, rank: int = 32) -> ModelRow:
    return ModelRow(pattern, (Part(name, rank=rank, stored="BF16"),), _LORAS)


def _checkpoint(pattern: str, model: str, *more: Part) -> ModelRow:
    return ModelRow(pattern, (Part(model, MODEL), *more), _CHECKPOINTS)


_SD_VAE = Part("VAE SD1.5, SDXL", VAE, "F16")
_CLIP_L = Part("CLIP-L without projection", "conditioner.embedders.0.transformer.", "F16")
_FLUX = (
    Part("VAE FLUX.1, SD3", "vae.", "BF16"), Part("CLIP-L", "text_encoders.clip_l.transformer.", "F16"),
    Part("T5-XXL", "text_encoders.t5xxl.transformer."),
)  # fmt: skip
_OF_LTX_2 = (Part("VAE LTX-Video 0.9.5, LTX-2", "vae.", "BF16"), Part("VAE LTX-2 audio", stored="BF16"))

ROWS: tuple[ModelRow, ...] = (
    # diffusion models
    _row("qwen_image_edit_2511", "Qwen-Image-Edit 2511"),
    _row("qwen_image_layered_vae", "VAE Qwen-Image"),
    _row("qwen_image_layered", "Qwen-Image-Layered"),
    _row("qwen_image_vae", "VAE Qwen-Image"),
    _row("qwen_image_inpaint_diffsynth", "Qwen-Image DiffSynth inpaint"),
    _row("qwen_image_(canny|depth)_diffsynth", "Qwen-Image DiffSynth control"),
    _lora("qwen_image_union_diffsynth_lora", "Qwen-Image", 64),
    _lora("qwen_image_edit_2511-systms", "Qwen-Image"),
    _row("qwen_image", "Qwen-Image"),
    _row("firered-image-edit-1.1", "Qwen-Image"),
    _row("z_image", "Z-Image"),
    _row("flux-2-klein-(base-)?4b", "FLUX.2 Klein 4B"),
    _row("flux-2-klein-(base-)?9b", "FLUX.2 Klein 9B"),
    _row("flux2_dev", "FLUX.2 dev"),
    _row("flux1-fill|flux.1-fill", "FLUX.1 Fill"),
    _row("flux1-canny", "FLUX.1 Canny"),
    _lora("flux1-depth-dev-lora", "FLUX.1 dev", 128),
    _row("flux1-redux", "FLUX.1 Redux"),
    _row("ovis_image", "Ovis-Image"),
    _row("longcat", "LongCat-Image"),
    _row("chroma-radiance", "Chroma Radiance"),
    _row("chroma1", "Chroma"),
    _row("anima-(base|preview)", "Anima"),
    _row("krea2_turbo", "Krea 2"),
    _row("mage_flow_vae", "VAE Mage"),
    _row("mage_flow", "Mage-Flow"),
    _row("omnigen2", "OmniGen2"),
    _row("boogu", "Boogu"),
    _row("ernie-image-prompt", "Ministral 3 3B"),
    _row("ernie-image", "Ernie-Image"),
    _row("ideogram4", "Ideogram 4"),
    _row("joyai", "JoyImage"),
    _row("kandinsky5lite_t2i", "Kandinsky 5 image"),
    _row("kandinsky5", "Kandinsky 5 video"),
    _row("lens", "Lens"),
    _row("newbie", "NewBie"),
    _row("pixeldit", "PixelDiT"),
    _row("pid_flux", "PiD"),
    _row("lotus", "Lotus"),
    _row("hidream_[ie]1_", "HiDream I1"),
    _row("capybara", "HunyuanVideo 1.5"),
    _row("hunyuanvideo1.5_1080p_sr", "HunyuanVideo 1.5 upscaler"),
    _row("hunyuanvideo1.5_", "HunyuanVideo 1.5"),
    _row("hunyuan_video_t2v", "HunyuanVideo"),
    _row("seedvr2_3b", "SeedVR2 3B"),
    _row("seedvr2_7b", "SeedVR2 7B"),
    _row("seedvr2_ema_vae", "VAE SeedVR2"),
    _row("minimax_h3_(fl2va|ref2va|t2va)", "MiniMax H3"),
    _row("minimax_h3_video_vae", "VAE MiniMax H3 video"),
    _row("minimax_h3_audio_vae", "VAE MiniMax H3 audio"),
    _row("triposplat_vae", "VAE TripoSplat"),
    _row("triposplat", "TripoSplat"),
    _row("acestep_v1.5_xl", "ACE-Step 1.5 XL"),
    _row("acestep_v1.5", "ACE-Step 1.5"),
    _row("void_pass", "CogVideoX inpaint"),
    _row("causal_forcing", "Wan causal 1.3B"),
    _row("humo", "Wan HuMo 17B"),
    _row("chrono_edit", "Wan 2.1 i2v 14B"),
    _row("wan2.1_vace_14b", "Wan VACE 14B"),
    _row("wan2.1_vace_1.3b", "Wan VACE 1.3B"),
    _row("wan2.1_t2v_1.3b", "Wan t2v 1.3B"),
    _row("wan2.1_fun_camera_v1.1_1.3b", "Wan 2.1 Fun camera 1.3B"),
    _row("wan2.1_fun_camera", "Wan 2.1 Fun camera 14B"),
    _row("wan2.1_fun_control_1.3b", "Wan 2.1 Fun control 1.3B"),
    _row("wan2.1_fun_inp_1.3b", "Wan 2.1 Fun inpaint 1.3B"),
    _row("wan2.1_14b_scail", "Wan SCAIL 2 14B"),
    _row("wan2.1_flf2v", "Wan 2.1 flf2v 14B"),
    _lora("wan2.1_scail_2_dpo", "Wan SCAIL 2 14B"),
    _row("wan2.1_infinitetalk", "Wan InfiniteTalk"),
    _row("wan2.1_i2v|wan2_1-i2v|wan21-wanmove", "Wan 2.1 i2v 14B"),
    _row("wan2.1_t2v_14b", "Wan t2v 14B"),
    _row("wan2.2_ti2v_5b", "Wan 2.2 5B"),
    _row("wan2.2_fun_control_5b", "Wan 2.2 Fun control 5B"),
    _row("wan2.2_fun_inpaint_5b", "Wan 2.2 Fun inpaint 5B"),
    _row("wan2.2_fun_camera", "Wan 2.2 Fun camera 14B"),
    _row("wan2.2_fun_control", "Wan 2.2 Fun control 14B"),
    _row("wan2.2_fun_inpaint", "Wan 2.2 i2v 14B"),
    _row("wan2.2_s2v", "Wan 2.2 S2V 14B"),
    _row("wan2.2_dancer", "WanDancer 14B"),
    _lora("wan2.2_[it]2v_lightx2v", "Wan t2v 14B", 64),
    _lora("wan2.2-lightning_i2v", "Wan t2v 14B", 64),
    _row("wan2.2_i2v", "Wan 2.2 i2v 14B"),
    _row("wan2.2_(t2v|bernini)", "Wan t2v 14B"),
    _row("rt_detr", "RT-DETR"),
    # VAEs
    _row("ae.safetensors", "VAE FLUX.1, SD3", stored="F32"),
    _row("wan_2.1_vae|wan2_1_vae|wan_alpha_2.1_vae", "VAE Wan 2.1"),
    _row("wan2.2_vae", "VAE Wan 2.2"),
    _row("flux2-vae|full_encoder_small_decoder", "VAE FLUX.2"),  # the small decoder is planned as the usual one
    _row("ace_1.5_vae", "VAE ACE-Step 1.5"),
    _row("hunyuanvideo15_vae", "VAE HunyuanVideo 1.5"),
    _row("hunyuan_video_vae", "VAE HunyuanVideo"),
    _row("vae-ft-mse", "VAE SD1.5, SDXL", stored="F32"),
    _row("cogvideox_vae", "VAE CogVideoX"),
    # text encoders
    _row("umt5_xxl", "UMT5-XXL"),
    _row("t5xxl", "T5-XXL"),
    _row("t5gemma", "T5Gemma"),
    _row("t5-base", "T5-base"),
    _row("qwen_2.5_vl_7b", "Qwen2.5-VL 7B"),
    _row("qwen_2.5_vl_fp16", "Qwen2.5-VL 3B"),
    _row("qwen_3_4b", "Qwen3 4B"),
    _row("qwen_3_8b", "Qwen3 8B"),
    _row("qwen_3_06b", "Qwen3 0.6B"),
    _row("qwen_0.6b_ace15", "Qwen3 0.6B of ACE-Step"),
    _row("qwen_1.7b_ace15", "Qwen3 2B of ACE-Step"),
    _row("qwen_4b_ace15", "Qwen3 4B of ACE-Step"),
    _row("qwen3vl_4b", "Qwen3-VL 4B"),
    _row("qwen3vl_8b", "Qwen3-VL 8B"),
    _row("qwen3vl_32b", "Qwen3-VL 32B of MiniMax"),
    _row("qwen3.5_2b", "Qwen3.5 2B"),
    _row("qwen3.5_4b", "Qwen3.5 4B"),
    _row("gemma_2_2b", "Gemma 2 2B"),
    _row("gemma_3_4b", "Gemma 3 4B"),
    _lora("gemma-3-12b-it-abliterated_lora", "Gemma 3 12B", 64),
    _row("gemma_3_12b", "Gemma 3 12B"),
    _row("gemma4_e4b", "Gemma 4 E4B"),
    _row("jina_clip", "Jina CLIP 2"),
    _row("ovis_2.5", "Ovis 2.5 2B"),
    _row("ministral-3", "Ministral 3 3B"),
    _row("mistral_3_small", "Mistral Small 24B"),
    _row("gpt_oss", "GPT-OSS 20B"),
    _row("clip_l", "CLIP-L", stored="F16"),
    _row("clip_g_hidream", "CLIP-G", stored="F16"),
    _row("byt5", "ByT5"),
    _row("llama_3.1", "Llama 3.1 8B"),
    _row("llava_llama3", "LLaVA Llama 3 8B"),
    # checkpoints
    _checkpoint(
        "sd_xl_base|sd_xl_turbo",
        "SDXL",
        _SD_VAE,
        _CLIP_L,
        Part("CLIP-G of OpenCLIP", "conditioner.embedders.1.model.", "F16"),
    ),
    _checkpoint(
        "sd_xl_refiner", "SDXL refiner", _SD_VAE, Part("CLIP-G of OpenCLIP", "conditioner.embedders.0.model.", "F16")
    ),
    _checkpoint(
        "v1-5|dreamshaper", "SD1.5", _SD_VAE, Part("CLIP-L without projection", "cond_stage_model.transformer.", "F16")
    ),
    _checkpoint("sdpose_wholebody", "SDPose", _SD_VAE),
    ModelRow(
        "sam3.1_multiplex",
        (Part("SAM3.1"), Part("CLIP of SAM3", "detector.backbone.language_backbone.encoder.")),
        _CHECKPOINTS,
    ),
    _checkpoint(
        "sd3.5_large_fp8",
        "SD3.5 large",
        Part("VAE FLUX.1, SD3", VAE, "BF16"),
        Part("CLIP-L", "text_encoders.clip_l.transformer.", "F16"),
        Part("CLIP-G", "text_encoders.clip_g.transformer.", "F16"),
        Part("T5-XXL", "text_encoders.t5xxl.transformer."),
    ),
    _checkpoint("flux1-dev-fp8", "FLUX.1 dev", *_FLUX),
    _checkpoint("flux1-schnell-fp8", "FLUX.1 schnell", *_FLUX),
    _row("flux1-schnell", "FLUX.1 schnell"),
    _row("flux1", "FLUX.1 dev"),
    _checkpoint(
        "ltx-2.3-22b-(dev|distilled)-?(fp8)?.safe",
        "LTX-2.3",
        *_OF_LTX_2,
        Part("LTX-2.3 text projection", "text_embedding_projection.", "BF16"),
    ),
    _checkpoint(
        "ltx-2-19b-(dev|distilled)-?(fp8)?.safe",
        "LTX-2",
        *_OF_LTX_2,
        Part("LTX-2 text projection", "text_embedding_projection.", "BF16"),
    ),
    _checkpoint("ltx-video-2b-v0.9.5", "LTX-Video 0.9", Part("VAE LTX-Video 0.9.5, LTX-2", "vae.")),
    _checkpoint("ltx-video-2b-v0.9", "LTX-Video 0.9", Part("VAE LTX-Video 0.9", "vae.")),
    _checkpoint(
        "ace_step_v1_3.5b",
        "ACE-Step",
        Part("VAE ACE-Step", "vae."),
        Part("UMT5-base", "text_encoders.umt5base.transformer."),
    ),
    _checkpoint(
        "ace_step_1.5_turbo_aio",
        "ACE-Step 1.5",
        Part("VAE ACE-Step 1.5", "vae."),
        Part("Qwen3 0.6B of ACE-Step", "text_encoders.qwen3_06b.transformer."),
        Part("Qwen3 2B of ACE-Step", "text_encoders.qwen3_2b.transformer."),
    ),
    _checkpoint(
        "stable_audio_3",
        "Stable Audio 3",
        Part("Stable Audio 3 beside"),
        Part("VAE Stable Audio 3", "pretransform.model."),
    ),
    _checkpoint(
        "stable-audio-open",
        "Stable Audio",
        Part("Stable Audio beside"),
        Part("VAE Stable Audio", "pretransform.model."),
    ),
    _checkpoint("hidream_o1", "HiDream O1"),
    _checkpoint(
        "netayume",
        "Lumina 2",
        Part("VAE FLUX.1, SD3", "vae."),
        Part("Gemma 2 2B", "text_encoders.gemma2_2b.transformer."),
    ),
    _checkpoint(
        "svd_xt",
        "SVD",
        Part("VAE SVD", VAE, "F16"),
        Part("CLIP vision H of OpenCLIP", "conditioner.embedders.0.open_clip.model.visual.", "F16"),
    ),
    _checkpoint(
        "hunyuan3d-dit-v2",
        "Hunyuan3D 2.0",
        Part("VAE Hunyuan3D", "vae."),
        Part("DINOv2 giant", "conditioner.main_image_encoder.model."),
    ),
    _checkpoint(
        "hunyuan_3d_v2.1",
        "Hunyuan3D 2.1",
        Part("VAE Hunyuan3D", "vae."),
        Part("DINOv2 large", "conditioner.main_image_encoder.model."),
    ),
    # LoRAs
    _lora("qwen|firered|illustration|gummycandy|wuli|removal_timestep", "Qwen-Image", 64),
    _lora("wan21_causvid_bidirect2_t2v_1_3b", "Wan t2v 1.3B"),
    _lora("lightx2v_i2v|chronoedit", "Wan 2.1 i2v 14B", 64),
    _lora("lightx2v|wan21_causvid|wan_alpha", "Wan t2v 14B", 64),
    _lora("flux_?2", "FLUX.2 dev", 32),
    _lora("uso-flux1-dit-lora", "FLUX.1 dev", 128),
    _lora("pixel_art_style_z", "Z-Image"),
    _lora("anima-turbo", "Anima"),
    _lora("krea2", "Krea 2"),
    _lora("ltx-2-|ltx2-", "LTX-2", 64),
    _lora("ltx-?_?2", "LTX-2.3", 64),
    # the rest, by others.py and patches.py
    *(_row(pattern, name) for pattern, name in {**others.FILES, **patches.FILES}.items()),
)
