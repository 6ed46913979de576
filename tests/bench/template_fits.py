"""The table of docs/models.md for models other than FLUX.1: what the planner's mode `fit` chooses on usual cards.

    COMFYUI_PATH=... python -m tests.bench.template_fits [MODEL ...]

writes it, or the lines of these models, anew; all in about half an hour. Workflows, with files of the real size and
structure over zeros; nothing runs.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gguf import GGMLQuantizationType as Kind
from PIL import Image

from native.weights.tokenizers import sentencepiece
from tests import comfy_server
from tests.comfy_server import Client, changed, node_id, shipped

from ..templates import autoencoders, files
from ..templates.diffusion import DIFFUSION
from ..templates.encoders import ENCODERS
from . import real_size_files
from .what_fits import CARDS, PAGE

Shapes = Mapping[str, tuple[int, ...]]
_MARK = "<!-- python -m tests.bench.template_fits: "
BEGIN, END = f"{_MARK}begin -->\n", f"{_MARK}end -->\n"
BEGIN_CHOICES, END_CHOICES = f"{_MARK}choices begin -->\n", f"{_MARK}choices end -->\n"
_MIB = 1 << 20


@dataclass(frozen=True)
class Fitted:
    """A workflow with files of their real size, by their names in tests/templates; `size` is that of what it makes.

    checkpoint: the file in place of the three. changes: inputs of nodes by their class. latents: the class that makes
    them, if not the workflow's own. tokenizer: whether the file of the encoder has one.
    """

    title: str
    template: str
    size: str
    diffusion: str = ""
    encoder: str = ""
    vae: str = ""
    checkpoint: str = ""
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    latents: str = ""
    tokenizer: bool = False
    types: tuple[Kind, ...] = (Kind.Q4_K, Kind.Q8_0)

    @property
    def loader(self) -> str:
        """The node that has the diffusion model."""
        return "GGMLCheckpoint" if self.checkpoint else "GGMLDiffusionModel"


_SQUARE = "1024 x 1024"
_LARGE = {"EmptySD3LatentImage": {"width": 1024, "height": 1024}}


def _klein(size: str, encoder: str) -> Fitted:
    return Fitted(f"FLUX.2 Klein {size}", "text_to_image", _SQUARE, f"FLUX.2 Klein {size}", encoder, "FLUX.2",
                  changes=_LARGE | {"GGMLTextEncoders": {"type": "flux2"}},
                  latents="EmptyFlux2LatentImage")  # fmt: skip


FITTED = (
    Fitted("Z-Image", "z_image_turbo", _SQUARE, "Z-Image", "Qwen3 4B", "FLUX.1, SD3"),
    Fitted("SDXL", "checkpoint_sdxl", _SQUARE, checkpoint="sd_xl_base_1.0_fp16.safetensors", types=(Kind.F16,)),
    _klein("4B", "Qwen3 4B"),
    Fitted("Anima", "text_to_image", _SQUARE, "Anima", "Qwen3 0.6B", "Qwen-Image",
           changes=_LARGE | {"KSampler": {"cfg": 4.0}}),
    Fitted("SD1.5", "checkpoint_sdxl", "512 x 512", checkpoint="v1-5-pruned-emaonly-fp16.safetensors",
           changes={"EmptyLatentImage": {"width": 512, "height": 512}}, types=(Kind.F16,)),
    _klein("9B", "Qwen3 8B"),
    Fitted("Krea 2", "text_to_image", _SQUARE, "Krea 2", "Qwen3-VL 4B", "Qwen-Image",
           changes=_LARGE | {"GGMLTextEncoders": {"type": "krea2"}}),
    Fitted("Qwen-Image-Edit", "qwen_image_edit", _SQUARE, "Qwen-Image", "Qwen2.5-VL 7B", "Qwen-Image"),
    Fitted("Wan 2.2 5B", "wan2_2_5b_video", "832 x 480, 17 frames", "Wan 2.2 5B", "UMT5-XXL", "Wan 2.2",
           tokenizer=True),
)  # fmt: skip


def main() -> None:
    """Puts the table between the markers of the page."""
    table = between(PAGE.read_text(encoding="utf-8"), BEGIN, END)
    lines = heading()
    for fitted in FITTED:
        own = [line for line in table if line.startswith(f"| {fitted.title} |")]
        if fitted.title in (sys.argv[1:] or [fitted.title]):
            with serving(fitted) as client:
                own = [row(client, fitted, kind) for kind in fitted.types]
            print(*own, sep="\n", flush=True)
        lines += own
    page = PAGE.read_text(encoding="utf-8")
    for begin, end, made in ((BEGIN, END, lines), (BEGIN_CHOICES, END_CHOICES, choices(lines))):
        before, _, rest = page.partition(begin)
        page = before + begin + "".join(f"{line}\n" for line in made) + end + rest.partition(end)[2]
    PAGE.write_text(page, encoding="utf-8")


def between(page: str, begin: str, end: str) -> list[str]:
    """The lines of a table."""
    return page.partition(begin)[2].partition(end)[0].splitlines()


def choices(table: list[str]) -> list[str]:
    """The table of a file for each card: the largest that stays on it, else the smallest, streamed from RAM."""
    lines = ["| model | 4 GB | 6 GB | 8 GB | 12 GB |", "|---|---|---|---|---|"]
    for fitted in FITTED:
        rows = [line.strip("| ").split(" | ") for line in table if line.startswith(f"| {fitted.title} |")]
        made = []
        for card in range(len(CARDS)):
            places = {cells[1]: cells[3 + card].partition(":")[0] for cells in rows}  # of the weights, by type
            held = [kind for kind, place in places.items() if place == "`device`"]
            streamed = [kind for kind, place in places.items() if place == "`ram`"]
            made.append(held[-1] if held else f"{streamed[0]}, streamed" if streamed else "on the CPU")
        lines.append(f"| {fitted.title} | {' | '.join(made)} |")
    return lines


@contextmanager
def serving(fitted: Fitted) -> Iterator[Client]:
    """A server that has the files of a template, hollow."""
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        for kind in ("diffusion_models", "text_encoders", "vae", "checkpoints"):
            (models / kind).mkdir(parents=True)
        if fitted.checkpoint:
            files.hollow("checkpoints", fitted.checkpoint).write(models / "checkpoints" / fitted.checkpoint)
        else:
            _write_parts(fitted, models)
        with comfy_server.running(Path(folder) / "server", models) as client:
            client.upload("example.png", Image.new("RGB", (1024, 1024)))
            yield client


def _write_parts(fitted: Fitted, models: Path) -> None:
    """The diffusion model in each of the types, the encoder and the VAE."""
    diffusion, encoder = DIFFUSION[fitted.diffusion].shapes(), ENCODERS[fitted.encoder].shapes()
    written = _gguf(encoder, Kind.Q8_0)
    if fitted.tokenizer:
        written = real_size_files.safetensors(encoder, Kind.F16, _TOKENIZER)
    made = {f"diffusion_models/{_file(kind)}": _gguf(diffusion, kind) for kind in fitted.types}
    made |= {f"text_encoders/{_encoder_file(fitted)}": written}
    made |= {"vae/vae.safetensors": real_size_files.safetensors(autoencoders.shapes(fitted.vae), Kind.F16)}
    for name, file in made.items():
        real_size_files.write(models / name, file, hollow=True)


_WORDS = {
    "tokenizer.ggml.model": "t5",
    "tokenizer.ggml.tokens": ["<pad>", "</s>", "<unk>", *"\u2581abcdefghijklmnopqrstuvwxyz,."],
    "tokenizer.ggml.token_type": [3, 3, 2, *[1] * 29], "tokenizer.ggml.unknown_token_id": 2,
    "tokenizer.ggml.eos_token_id": 1, "tokenizer.ggml.padding_token_id": 0,
}  # fmt: skip
_TOKENIZER = {"spiece_model": sentencepiece(_WORDS, "words")}


def _gguf(shapes: Shapes, kind: Kind) -> real_size_files.ModelFile:
    """Matrices in one type, kernels in F16, vectors in F32."""
    block = 256 if kind == Kind.Q4_K else 32
    tensors: real_size_files.Tensors = []
    for name, shape in shapes.items():
        fits = len(shape) == 2 and shape[1] % block == 0
        tensors.append((name, shape, kind if fits else Kind.F16 if len(shape) > 1 else Kind.F32))
    return real_size_files.ModelFile("a model", tensors)


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
    graph = _graph(fitted, kind)
    plan = client.send("/ggml/plan", {"prompt": graph, "profile": card, "mode": "fit"})
    if not plan["fits"]:
        return plan["verdict"] if plan["gaps"] else "does not fit"
    chosen = plan["chosen"][node_id(graph, fitted.loader)]
    where = "CPU" if chosen["device"] == "CPU" else f"`{chosen['weights']}`"
    gpu, ram = (round(plan["devices"][device]["peak"] / _MIB) for device in ("Vulkan0", "CPU"))
    return f"{where}: {gpu:,} + {ram:,}"


def _graph(fitted: Fitted, kind: Kind) -> comfy_server.Workflow:
    """The workflow with these files, without LoRAs, which add their own size."""
    graph = shipped(fitted.template)
    for node in [node for node, made in graph.items() if made["class_type"] == "LoraLoaderModelOnly"]:
        source = graph.pop(node)["inputs"]["model"]
        for made in graph.values():
            made["inputs"] |= {name: source for name, value in made["inputs"].items() if value == [node, 0]}
    parts = {
        "GGMLDiffusionModel": {"model_name": _file(kind)},
        "GGMLTextEncoders": {"clip_name1": _encoder_file(fitted), "clip_name2": "none"},
        "GGMLVAE": {"vae_name": "vae.safetensors", "device": "CPU"},
    }  # fmt: skip
    whole = {"GGMLCheckpoint": {"ckpt_name": fitted.checkpoint}}
    graph = changed(changed(graph, whole if fitted.checkpoint else parts), fitted.changes)
    if fitted.latents:
        graph[node_id(graph, "EmptySD3LatentImage")]["class_type"] = fitted.latents
    return graph


def _file(kind: Kind) -> str:
    return f"model-{kind.name}.gguf"


if __name__ == "__main__":
    os.environ.setdefault("GGML_VK_VISIBLE_DEVICES", "0")
    main()
