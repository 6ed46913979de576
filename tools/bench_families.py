"""The rows of `bench` for other families than FLUX.1: text encoders, a step and a VAE, in one process each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .bench_flux import VAE
from .bench_jobs import PEER, TORCH, Job, Row

SD15, SDXL = "v1-5-random-F16.safetensors", "sd_xl_base-random-F16.safetensors"
Z_IMAGE, QWEN3 = "z_image-random-Q8_0.gguf", "qwen3_4b-random-Q8_0.gguf"
QWEN_IMAGE, QWEN25 = "qwen_image-random-Q4_0.gguf", "qwen2.5_vl_7b-random-Q4_0.gguf"
WAN, UMT5 = "wan2.2_ti2v_5b-random-F16.safetensors", "umt5_xxl-random-Q8_0.gguf"
QWEN_VAE, WAN_VAE = "qwen_image_vae-random-F16.safetensors", "wan2.2_vae-random-F16.safetensors"
GIGABYTES = {
    SD15: 2.2, SDXL: 7.0, Z_IMAGE: 6.6, QWEN3: 4.4, QWEN_IMAGE: 11.6, QWEN25: 4.0, WAN: 10.1, UMT5: 6.1, QWEN_VAE: 0.3,
    WAN_VAE: 1.5,
}  # fmt: skip


@dataclass(frozen=True)
class Family:
    """A model's files by option, what the job needs besides, and its parts in words.

    core: whether ComfyUI's own loaders read the files.
    """

    name: str
    files: tuple[tuple[str, str], ...]
    options: tuple[str, ...]
    said: str
    core: bool = False


FAMILIES = (
    Family("sd15_512", (("checkpoint", SD15),), ("--size", "512"), "SD1.5 F16, 512x512 pixels", core=True),
    Family("sdxl_1024", (("checkpoint", SDXL),), ("--size", "1024"), "SDXL F16, 1024x1024 pixels", core=True),
    Family(
        "z_image_512",
        (("diffusion", Z_IMAGE), ("llm", QWEN3), ("vae", VAE)),
        ("--size", "512", "--clip-type", "lumina2"),
        "Z-Image Q8_0, Qwen3-4B Q8_0, VAE F32, 512x512 pixels",
    ),
    Family(
        "qwen_image_512",
        (("diffusion", QWEN_IMAGE), ("llm", QWEN25), ("vae", QWEN_VAE)),
        ("--size", "512", "--clip-type", "qwen_image"),
        "Qwen-Image Q4_0, Qwen2.5-VL 7B Q4_0, VAE F16, 512x512 pixels",
    ),
    Family(
        "wan22_5b_480p",
        (("diffusion", WAN), ("t5", UMT5), ("vae", WAN_VAE)),
        ("--size", "832", "--height", "480", "--frames", "17", "--clip-type", "wan"),
        "Wan 2.2 5B F16, UMT5-XXL Q8_0, VAE F16, 832x480 pixels, 17 frames",
    ),
)  # fmt: skip
# Of each family: a name, the task, its figure, and words.
PARTS = (
    ("encode", "draw", "encode", "the prompt, ours the second time"),
    ("step", "draw", "seconds", "a step, the second of two"),
    ("decode", "decode", "seconds", "decoding, ours the second time"),
)


def rows() -> Iterator[Row]:
    """For each family and part a row beside stable-diffusion.cpp, and one beside torch where core reads the files."""
    for family in FAMILIES:
        peers = [("", PEER, "peer"), ("_torch", TORCH, "core")] if family.core else [("", PEER, "peer")]
        for end, peer, module in peers:
            for part, task, figure, words in PARTS:
                ours = Job("ours", task, family.files, (*family.options, "--weights", "device"))
                theirs = Job(module, task, family.files, family.options)
                said = f"{words}: {family.said}; weights: device; peer with flash attention"
                yield Row(f"{family.name}_{part}{end}", figure, ours, peer, (theirs,), said, usual=False)
