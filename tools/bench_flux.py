"""The rows of `bench` for FLUX.1: for each name the work of this project and the same work of a peer."""

from __future__ import annotations

from collections.abc import Iterator

from .bench_jobs import PEER, TORCH, Job, Row

SIZES = (256, 512, 768, 1024)  # pixels
QUANTIZATIONS = ("Q4_0", "Q4_K", "Q8_0")

FLUX = "flux1-schnell-random-{}.gguf"
SMALL = "flux1-two-blocks-random-Q4_0.gguf"
T5, T5_F16 = "t5-v1_1-xxl-encoder-random-Q8_0.gguf", "t5-v1_1-xxl-encoder-random-F16.safetensors"
CLIP, VAE = "clip_l-random-F16.safetensors", "ae-random-F32.safetensors"
GIGABYTES = {
    FLUX.format("Q4_0"): 6.8, FLUX.format("Q4_K"): 6.8, FLUX.format("Q8_0"): 12.7, SMALL: 0.4, T5: 5.1, T5_F16: 9.6,
    CLIP: 0.3, VAE: 0.4,
}  # fmt: skip


def rows(device: str) -> Iterator[Row]:
    """In the order in which they are measured."""
    yield from load_rows(device)
    yield from step_rows(device)
    yield from memory_rows(device)
    yield from encode_rows()
    yield from decode_rows()


def in_place(device: str) -> str:
    """The `weights` of a loader's node by which the CPU uses the file's own pages; elsewhere there is no such thing."""
    return "ram" if device == "CPU" else "device"


def load_rows(device: str) -> Iterator[Row]:
    """FLUX.1 Q4_0 and the VAE, from the page cache; either program makes its graph in the first step."""
    files = (("diffusion", FLUX.format("Q4_0")), ("vae", VAE))
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
    files = [("diffusion", flux), ("vae", VAE)]
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
    peer = Job("peer", "encode", (("diffusion", SMALL), ("vae", VAE), *encoders), ("--size", "64"))
    yield Row("t5_encode", "seconds", ours, PEER, (peer,), said.format("Q8_0"))
    core = Job("core", "encode", (("t5", T5_F16), ("clip", CLIP)))
    yield Row("t5_encode_torch", "seconds", ours, TORCH, (core,), said.format("Q8_0 (torch: F16)"), False)


def decode_rows() -> Iterator[Row]:
    """One picture out of latents."""
    vae = (("vae", VAE),)
    ours = Job("ours", "decode", vae)
    peer = (("diffusion", SMALL), ("vae", VAE), ("clip", CLIP))
    peers = (Job("peer", "decode", peer), Job("peer", "decode", peer, ("--tiled",)))
    said = "VAE F32, 512x512 pixels, second picture"
    tried = f"{said}, of the peer the first; peer whole and tiled, the faster"
    yield Row("vae_decode_512", "seconds", ours, PEER, peers, tried)
    yield Row("vae_decode_512_torch", "seconds", ours, TORCH, (Job("core", "decode", vae),), f"{said}; torch whole")
