"""The table of docs/models.md for models other than FLUX.1: what the planner's mode `fit` chooses on usual cards.

    COMFYUI_PATH=... python -m tests.bench.template_fits

writes it anew, in about ten minutes. The templates, with files of the real size and structure over zeros; nothing runs.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from gguf import GGMLQuantizationType as Kind
from PIL import Image

from native.weights.tokenizers import sentencepiece
from tests import comfy_server, pack
from tests.comfy_server import Client, changed, node_id, shipped

from . import hollow_vaes, real_size_files
from .real_models import MODELS
from .what_fits import CARDS, PAGE

pack.comfy()

import comfy.ops  # noqa: E402
import comfy.text_encoders.llama as llama  # noqa: E402
import comfy.text_encoders.t5  # noqa: E402

_MARK = "<!-- python -m tests.bench.template_fits: "
BEGIN, END = f"{_MARK}begin -->\n", f"{_MARK}end -->\n"
_MIB = 1 << 20
_ENCODER = {"dtype": torch.float32, "device": "meta", "operations": comfy.ops.disable_weight_init}


def _umt5() -> torch.nn.Module:
    config = Path(comfy.text_encoders.t5.__file__).parent / "umt5_config_xxl.json"
    return comfy.text_encoders.t5.T5(json.loads(config.read_text(encoding="utf-8")), *_ENCODER.values())


@dataclass(frozen=True)
class Fitted:
    """A template with files of their real size; `size` is that of what it makes."""

    title: str
    template: str
    size: str
    diffusion: Callable[[], torch.nn.Module]
    encoder: Callable[[], torch.nn.Module]
    vae: str  # in hollow_vaes, or "": FLUX.1's
    tokenizer: bool = False  # whether the file of the encoder has one
    types: tuple[Kind, ...] = (Kind.Q4_K, Kind.Q8_0)


FITTED = (
    Fitted("Z-Image", "z_image_turbo", "1024 x 1024", MODELS["Z-Image"].build,
           partial(llama.Qwen3_4B, {}, *_ENCODER.values()), ""),
    Fitted("Qwen-Image-Edit", "qwen_image_edit", "1024 x 1024", MODELS["Qwen-Image"].build,
           partial(llama.Qwen25_7BVLI, {}, *_ENCODER.values()), "wan2.1"),
    Fitted("Wan 2.2 5B", "wan2_2_5b_video", "832 x 480, 17 frames", MODELS["Wan 2.2 5B"].build, _umt5, "wan2.2",
           tokenizer=True),
)  # fmt: skip


def main() -> None:
    """Puts the table between the markers of the page."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    lines = heading()
    for fitted in FITTED:
        with serving(fitted) as client:
            lines += [row(client, fitted, kind) for kind in fitted.types]
            print(*lines[-len(fitted.types) :], sep="\n", flush=True)
    PAGE.write_text(before + BEGIN + "".join(f"{line}\n" for line in lines) + END + after, encoding="utf-8")


@contextmanager
def serving(fitted: Fitted) -> Iterator[Client]:
    """A server that has the files of a template, hollow."""
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        for kind in ("diffusion_models", "text_encoders", "vae"):
            (models / kind).mkdir(parents=True)
        with torch.device("meta"):
            diffusion, encoder = fitted.diffusion(), fitted.encoder()
        for stored in fitted.types:
            real_size_files.write(models / "diffusion_models" / _file(stored), _gguf(diffusion, stored), hollow=True)
        written = _safetensors(encoder, _TOKENIZER) if fitted.tokenizer else _gguf(encoder, Kind.Q8_0)
        real_size_files.write(models / "text_encoders" / _encoder_file(fitted), written, hollow=True)
        with torch.device("meta"):
            vae = fitted.vae and hollow_vaes.VAES[fitted.vae]()
        vae = _safetensors(vae) if vae else real_size_files.FILES[_FLUX_VAE]()
        real_size_files.write(models / "vae" / "vae.safetensors", vae, hollow=True)
        with comfy_server.running(Path(folder) / "server", models) as client:
            client.upload("example.png", Image.new("RGB", (1024, 1024)))
            yield client


_FLUX_VAE = "ae-random-F32.safetensors"
_WORDS = {
    "tokenizer.ggml.model": "t5",
    "tokenizer.ggml.tokens": ["<pad>", "</s>", "<unk>", *"\u2581abcdefghijklmnopqrstuvwxyz,."],
    "tokenizer.ggml.token_type": [3, 3, 2, *[1] * 29], "tokenizer.ggml.unknown_token_id": 2,
    "tokenizer.ggml.eos_token_id": 1, "tokenizer.ggml.padding_token_id": 0,
}  # fmt: skip
_TOKENIZER = {"spiece_model": sentencepiece(_WORDS, "words")}


def _gguf(module: torch.nn.Module, kind: Kind) -> real_size_files.ModelFile:
    """Matrices in one type, kernels in F16, vectors in F32."""
    block = 256 if kind == Kind.Q4_K else 32
    tensors: real_size_files.Tensors = []
    for name, tensor in module.state_dict().items():
        fits = tensor.ndim == 2 and tensor.shape[1] % block == 0
        tensors.append((name, tuple(tensor.shape), kind if fits else Kind.F16 if tensor.ndim > 1 else Kind.F32))
    return real_size_files.ModelFile("a model", tensors)


def _safetensors(module: torch.nn.Module, contents: dict[str, bytes] | None = None) -> real_size_files.ModelFile:
    """All in F16."""
    tensors = [(name, tuple(tensor.shape), Kind.F16) for name, tensor in module.state_dict().items()]
    return real_size_files.ModelFile("", tensors, contents=contents or {})


def _encoder_file(fitted: Fitted) -> str:
    return "encoder.safetensors" if fitted.tokenizer else "encoder.gguf"


def heading() -> list[str]:
    """The first lines of the table."""
    cards = " | ".join(" ".join(card.split(",")[0].split()) for card in CARDS)
    return [f"| model | file | makes | {cards} |", "|---" * (3 + len(CARDS)) + "|"]


def row(client: Client, fitted: Fitted, kind: Kind) -> str:
    """The line of one file, with a plan for each card."""
    cells = " | ".join(_cell(client, fitted, kind, card) for card in CARDS)
    return f"| {fitted.title} | {kind.name} | {fitted.size} | {cells} |"


def _cell(client: Client, fitted: Fitted, kind: Kind, card: str) -> str:
    """Where the weights of the diffusion model are, MiB of the card and of RAM."""
    graph = shipped(fitted.template)
    names = {
        "GGMLDiffusionModel": {"model_name": _file(kind)}, "GGMLTextEncoders": {"clip_name1": _encoder_file(fitted)},
        "GGMLVAE": {"vae_name": "vae.safetensors", "device": "CPU"},
    }  # fmt: skip
    for node in [node for node, made in graph.items() if made["class_type"] == "LoraLoaderModelOnly"]:
        source = graph.pop(node)["inputs"]["model"]  # the LoRA adds its own size
        for made in graph.values():
            made["inputs"] |= {name: source for name, value in made["inputs"].items() if value == [node, 0]}
    plan = client.send("/ggml/plan", {"prompt": changed(graph, names), "profile": card, "mode": "fit"})
    if not plan["fits"]:
        return plan["verdict"] if plan["gaps"] else "does not fit"
    chosen = plan["chosen"][node_id(graph, "GGMLDiffusionModel")]
    where = "CPU" if chosen["device"] == "CPU" else f"`{chosen['weights']}`"
    gpu, ram = (round(plan["devices"][device]["peak"] / _MIB) for device in ("Vulkan0", "CPU"))
    return f"{where}: {gpu:,} + {ram:,}"


def _file(kind: Kind) -> str:
    return f"model-{kind.name}.gguf"


if __name__ == "__main__":
    os.environ.setdefault("GGML_VK_VISIBLE_DEVICES", "0")
    main()
