"""The rows of `bench`: for each name the work of this project and the same work of a peer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from .steps import Failure

MIB = 1 << 20
SIZES = (256, 512, 768, 1024)  # pixels
QUANTIZATIONS = ("Q4_0", "Q4_K", "Q8_0")
PEER, TORCH = "stable-diffusion.cpp", "torch in ComfyUI"

FLUX = "flux1-schnell-random-{}.gguf"
SMALL = "flux1-two-blocks-random-Q4_0.gguf"
T5, T5_F16 = "t5-v1_1-xxl-encoder-random-Q8_0.gguf", "t5-v1_1-xxl-encoder-random-F16.safetensors"
CLIP, VAE = "clip_l-random-F16.safetensors", "ae-random-F32.safetensors"
GIGABYTES = {
    FLUX.format("Q4_0"): 6.8, FLUX.format("Q4_K"): 6.8, FLUX.format("Q8_0"): 12.7, SMALL: 0.4, T5: 5.1, T5_F16: 9.6,
    CLIP: 0.3, VAE: 0.4,
}  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One measuring process: a module of tests/bench, its task, its model files by option, and further options."""

    module: str
    task: str
    files: tuple[tuple[str, str], ...]
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """A figure of this project beside the same figure of a peer, the better one where it has several ways."""

    name: str
    figure: str  # "seconds", "compute_buffer" or "peak_memory"
    ours: Job
    peer: str
    peers: tuple[Job, ...]
    conditions: str
    usual: bool = True  # whether it is measured when no name is given

    @property
    def unit(self) -> str:
        return "s" if self.figure == "seconds" else "MiB"


def rows(device: str) -> list[Row]:
    """All rows for a device, in the order in which they are measured."""
    found = [*load_rows(device), *step_rows(device), *memory_rows(device), *encode_rows(), *decode_rows()]
    return [row for row in found if device == "CPU" or row.peer != TORCH]  # torch here is one for the CPU


def chosen(device: str, patterns: Sequence[str]) -> list[Row]:
    """The rows whose name one of the patterns (a glob, or how the name begins) fits; the usual ones without any."""
    every = rows(device)
    if not patterns:
        return [row for row in every if row.usual]
    for pattern in patterns:
        if not any(fits(row.name, pattern) for row in every):
            raise Failure(f"no benchmark is called {pattern}", "`python3 dev.py bench --list` shows them all")
    return [row for row in every if any(fits(row.name, pattern) for pattern in patterns)]


def fits(name: str, pattern: str) -> bool:
    return name.startswith(pattern) or fnmatchcase(name, pattern)


def in_place(device: str) -> str:
    """The `weights` of a loader's node by which the CPU uses the file's own pages; elsewhere there is no such thing."""
    return "ram" if device == "CPU" else "device"


def load_rows(device: str) -> Iterator[Row]:
    """FLUX.1 Q4_0 and the VAE, from the page cache; either program makes its graph in the first step."""
    files = (("flux", FLUX.format("Q4_0")), ("vae", VAE))
    ggml = ("--engine", "ggml")  # torch loads nothing before it computes
    said = "FLUX.1 Q4_0 and VAE from the page cache, until all weights are where they live"
    peer = (Job("peer", "load", files),)
    yield Row("load", "seconds", Job("ours", "load", files, ("--weights", in_place(device), *ggml)), PEER, peer, said)
    if device == "CPU":
        ours = Job("ours", "load", files, ("--weights", "device", *ggml))
        yield Row("load_repacked", "seconds", ours, PEER, peer, f"{said}, weights repacked")


def step(
    module: str, flux: str, size: int, weights: str = "device", engine: str = "ggml", count: int | None = None
) -> Job:
    """Steps of which the last is timed: the second, or the first where they are slow."""
    files = [("flux", flux), ("vae", VAE)]
    options = ["--size", str(size), "--steps", str(count or (2 if size <= 512 else 1))]
    if module == "ours":
        options += ["--weights", weights, "--engine", engine]
    else:
        files.append(("clip", CLIP))
    return Job(module, "steps", tuple(files), tuple(options))


def step_rows(device: str) -> Iterator[Row]:
    """Seconds per step, our weights where they are fastest; on the CPU also without torch."""
    for size in SIZES:
        for quantization in QUANTIZATIONS:
            flux = FLUX.format(quantization)
            name, peer = f"step_{size}_{quantization.lower()}", (step("peer", flux, size),)
            said = f"FLUX.1 {quantization}, {size}x{size} pixels, 256 text tokens, "
            said += "second of 2 steps" if size <= 512 else "one step"
            said += "; peer with flash attention; ours with weights: device and engine: "
            usual = size == 256 or (size == 512 and quantization == "Q4_0")
            fastest = step("ours", flux, size, engine="auto")
            yield Row(name, "seconds", fastest, PEER, peer, f"{said}auto", usual)
            if device == "CPU":
                yield Row(f"ggml_{name}", "seconds", step("ours", flux, size), PEER, peer, f"{said}ggml", False)
    yield Row(
        "step_small_256", "seconds", step("ours", SMALL, 256), PEER, (step("peer", SMALL, 256),),
        "one double and one single block of FLUX.1's width, Q4_0, 256x256 pixels, 256 text tokens, second of 2 steps; "
        "peer with flash attention",
        False,
    )  # fmt: skip
    if device != "CPU":
        streamed, resident = step("ours", SMALL, 256, "ram"), step("ours", SMALL, 256)
        yield Row(
            "streaming_256", "seconds", streamed, "weights: device", (resident,),
            "one double and one single block of FLUX.1's width, Q4_0, 256x256 pixels, 256 text tokens, second of 2 "
            "steps; weights: ram",
            False,
        )  # fmt: skip


def memory_rows(device: str) -> Iterator[Row]:
    """Memory of a step at 512x512 pixels with FLUX.1 Q4_0."""
    flux = FLUX.format("Q4_0")
    peer = (step("peer", flux, 512),)
    said = "FLUX.1 Q4_0, 512x512 pixels, 256 text tokens; peer with flash attention"
    yield Row("compute_buffer_512", "compute_buffer", step("ours", flux, 512), PEER, peer, said)
    if device != "CPU":
        said += "; weights and compute buffer of the diffusion model on the device, as each program reports them"
        yield Row("peak_memory_512", "peak_memory", step("ours", flux, 512), PEER, peer, said)
        return
    said += "; highest sum of anonymous and shared memory over all processes, every 50 ms, both with the VAE's "
    said += "weights, without the peer's text encoder; ours with ComfyUI's process and its torch"
    ours = step("ours", flux, 512, in_place(device), count=1)
    yield Row("peak_memory_512", "peak_memory", ours, PEER, peer, f"{said}, weights mapped")
    yield Row(
        "peak_memory_512_repacked", "peak_memory", step("ours", flux, 512), PEER, peer, f"{said}, weights repacked"
    )


def encode_rows() -> Iterator[Row]:
    """One prompt through both text encoders."""
    encoders = (("t5", T5), ("clip", CLIP))
    said = "T5-XXL {}, 256 tokens, and CLIP-L F16, 77 tokens; second prompt"
    ours = Job("ours", "encode", encoders)
    # The picture that the peer cannot do without is small, of a model of two blocks.
    peer = Job("peer", "encode", (("flux", SMALL), ("vae", VAE), *encoders), ("--size", "64"))
    yield Row("t5_encode", "seconds", ours, PEER, (peer,), said.format("Q8_0"))
    core = Job("core", "encode", (("t5", T5_F16), ("clip", CLIP)))
    yield Row("t5_encode_torch", "seconds", ours, TORCH, (core,), said.format("Q8_0 (torch: F16)"), False)


def decode_rows() -> Iterator[Row]:
    """One picture out of latents."""
    vae = (("vae", VAE),)
    ours = Job("ours", "decode", vae)
    peer = (("flux", SMALL), ("vae", VAE), ("clip", CLIP))
    peers = (Job("peer", "decode", peer), Job("peer", "decode", peer, ("--tiled",)))
    said = "VAE F32, 512x512 pixels, second picture"
    yield Row("vae_decode_512", "seconds", ours, PEER, peers, f"{said}; peer whole and tiled, the faster")
    yield Row("vae_decode_512_torch", "seconds", ours, TORCH, (Job("core", "decode", vae),), f"{said}; torch whole")
