"""Identifies the models in a weight file by its tensor names."""

from __future__ import annotations

from dataclasses import dataclass

from .weight_file import WeightFile, WeightFileError


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of model and the tensor names by which it is recognised."""

    key: str
    description: str  # for messages
    markers: tuple[str, ...]  # names that only it has, behind any prefix; one is enough
    advice: str  # what to do with such a file


DIFFUSION = "Choose it in GGML Diffusion Model."
ENCODERS = "Choose it in GGML Text Encoders."
VAES = "Choose it in GGML VAE."
ELSEWHERE = "This node does not run it."
# Within a group the first kind that matches counts; a file may hold a kind of each group. Names: model_detection.py
# and sd.py in ComfyUI 0.30, and llama.cpp.
ADAPTERS = (
    Kind("lora", "a LoRA", ("lora_down.weight", "lora_A.weight", "lora_A.default.weight"), "Choose it in Load LoRA."),
    Kind(
        "controlnet",
        "a ControlNet",
        ("controlnet_blocks.0.weight", "controlnet_x_embedder.weight", "input_hint_block.0.weight"),
        "Choose it in Load ControlNet Model.",
    ),
)
MODELS = (
    (
        Kind(
            "nunchaku", "a model quantized for nunchaku, GPTQ or AWQ", ("qweight",), "Use its GGUF or safetensors file."
        ),
        Kind("chroma", "a Chroma diffusion model", ("distilled_guidance_layer.in_proj.weight",), ELSEWHERE),
        Kind("flux2", "a FLUX.2 diffusion model", ("double_stream_modulation_img.lin.weight",), ELSEWHERE),
        Kind(
            "hunyuan_video",
            "a HunyuanVideo diffusion model",
            ("txt_in.individual_token_refiner.blocks.0.norm1.weight",),
            ELSEWHERE,
        ),
        Kind("flux", "a FLUX.1 diffusion model", ("double_blocks.0.img_attn.qkv.weight",), DIFFUSION),
        Kind(
            "flux_diffusers",
            "a FLUX.1 diffusion model in diffusers' layout",
            ("single_transformer_blocks.0.attn.to_q.weight",),
            DIFFUSION,
        ),
        Kind("sd3", "a Stable Diffusion 3 model", ("joint_blocks.0.context_block.attn.qkv.weight",), ELSEWHERE),
        Kind("sd", "a Stable Diffusion UNet", ("input_blocks.0.0.weight", "time_embedding.linear_1.weight"), ELSEWHERE),
        Kind("qwen_image", "a Qwen-Image diffusion model", ("transformer_blocks.0.attn.add_q_proj.weight",), ELSEWHERE),
        Kind("wan", "a Wan video model", ("blocks.0.cross_attn.norm_k.weight",), ELSEWHERE),
    ),
    (
        Kind(
            "t5",
            "a T5 text encoder",
            ("encoder.block.0.layer.0.SelfAttention.q.weight", "enc.blk.0.attn_q.weight"),
            ENCODERS,
        ),
    ),
    (
        Kind("clip_g", "a CLIP-G text encoder", ("text_model.encoder.layers.30.mlp.fc1.weight",), ELSEWHERE),
        Kind("clip_h", "a CLIP-H text encoder", ("text_model.encoder.layers.22.mlp.fc1.weight",), ELSEWHERE),
        Kind("clip_l", "a CLIP-L text encoder", ("text_model.encoder.layers.0.mlp.fc1.weight",), ENCODERS),
        Kind("clip_vision", "a CLIP vision model", ("vision_model.encoder.layers.0.mlp.fc1.weight",), ELSEWHERE),
    ),
    (
        Kind("flux2_vae", "a FLUX.2 VAE", ("bn.running_mean",), VAES),
        Kind("vae_diffusers", "a VAE in diffusers' layout", ("decoder.up_blocks.0.resnets.0.norm1.weight",), VAES),
        Kind("vae", "a VAE", ("decoder.conv_in.weight",), VAES),
        Kind(
            "video_vae",
            "a video VAE",
            ("decoder.conv_in.conv.weight", "decoder.middle.0.residual.0.gamma"),
            VAES,
        ),
    ),
)
LANGUAGE = Kind(  # matched last: T5's names in llama.cpp end in the same way
    "language",
    "a language model",
    ("blk.0.attn_q.weight", "blk.0.attn_qkv.weight", "model.layers.0.self_attn.q_proj.weight"),
    ELSEWHERE,
)


def identify(header: WeightFile) -> tuple[Kind, ...]:
    """The kinds of model in a file: several in an all-in-one checkpoint, none where nothing is recognised."""
    adapter = _first(header, ADAPTERS)
    if adapter:
        return (adapter,)
    kinds = tuple(kind for kind in (_first(header, group) for group in MODELS) if kind)
    return kinds or tuple(kind for kind in (_first(header, (LANGUAGE,)),) if kind)


def _first(header: WeightFile, group: tuple[Kind, ...]) -> Kind | None:
    return next((kind for kind in group if any(_has_tensor(header, marker) for marker in kind.markers)), None)


def _has_tensor(header: WeightFile, marker: str) -> bool:
    """Whether the file has a tensor of this name, behind any prefix."""
    return marker in header.tensors or any(name.endswith("." + marker) for name in header.tensors)


def another_kind(header: WeightFile, wanted: str) -> WeightFileError:
    """The error for a file that does not hold the `wanted` kind of model."""
    kinds = identify(header)
    if kinds:
        held = " with ".join(kind.description for kind in kinds)
        return WeightFileError(f"{header.path} seems to be {held}, not {wanted}. {kinds[0].advice}")
    sample = ", ".join(list(header.tensors)[:3])
    architecture = f", architecture {header.architecture!r:.40}" if header.architecture else ""
    return WeightFileError(
        f"{header.path} is not {wanted}, nor any model known here: its {len(header.tensors):,} tensors are called "
        f"{sample:.200} ...{architecture}. Choose another file."
    )
