"""The table of docs/models.md: what the planner's mode `fit` chooses for FLUX.1 on usual cards.

    COMFYUI_PATH=... python -m tests.bench.what_fits

writes it anew, in about five minutes. A real server with files of the real size and structure over zeros; nothing runs.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gguf import GGMLQuantizationType as Kind

from tests import comfy_server
from tests.comfy_server import ROOT, Client, changed, node_id, workflow

from . import real_size_files

PAGE = ROOT / "docs" / "models.md"
BEGIN, END = "<!-- python -m tests.bench.what_fits: begin -->\n", "<!-- python -m tests.bench.what_fits: end -->\n"
CARDS = ("RX 570 4 GB, Linux", "GTX 1060 6 GB, Windows", "RX 580 8 GB, Linux", "RTX 3060 12 GB, Windows")
TYPES = {  # by the name of the file: what its blocks are stored in
    "Q3_K_S": Kind.Q3_K,
    "Q4_K_S": Kind.Q4_K,
    "Q5_K_S": Kind.Q5_K,
    "Q6_K": Kind.Q6_K,
    "Q8_0": Kind.Q8_0,
    "F16": Kind.F16,
}
SIDES = (512, 768, 1024)  # pixels
T5, CLIP, VAE = "t5-v1_1-xxl-encoder-random-Q8_0.gguf", "clip_l-random-F16.safetensors", "ae-random-F32.safetensors"
_LOADER = "GGMLDiffusionModel"
_MIB = 1 << 20


def main() -> None:
    """Puts the table between the markers of the page."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    with serving() as client:
        lines = [*heading(), *(row(client, card, stored) for card in CARDS for stored in TYPES)]
    PAGE.write_text(before + BEGIN + "".join(f"{line}\n" for line in lines) + END + after, encoding="utf-8")


@contextmanager
def serving() -> Iterator[Client]:
    """A server whose models are hollow."""
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        for kind in ("diffusion_models", "text_encoders", "vae"):
            (models / kind).mkdir(parents=True)
        for stored, kind in TYPES.items():
            real_size_files.write(models / "diffusion_models" / _file(stored), real_size_files.flux(kind), hollow=True)
        for place in (f"text_encoders/{T5}", f"text_encoders/{CLIP}", f"vae/{VAE}"):
            real_size_files.write(models / place, real_size_files.FILES[Path(place).name](), hollow=True)
        with comfy_server.running(Path(folder) / "server", models) as client:
            yield client


def heading() -> list[str]:
    """The first lines of the table."""
    return [
        f"| card | file | {' | '.join(f'{side} x {side}' for side in SIDES)} |",
        "|---" * (2 + len(SIDES)) + "|",
    ]


def row(client: Client, card: str, stored: str) -> str:
    """The line of one card and file, with a plan for each size of the picture."""
    cells = (_cell(client, card, stored, side) for side in SIDES)
    return f"| {card} | {stored} | {' | '.join(cells)} |"


def _cell(client: Client, card: str, stored: str, side: int) -> str:
    """Where the weights of the diffusion model are, MiB of the card and of RAM."""
    graph = changed(workflow("text_to_image"), {
        _LOADER: {"model_name": _file(stored)},
        "GGMLTextEncoders": {"clip_name1": T5, "clip_name2": CLIP},
        "GGMLVAE": {"vae_name": VAE},
        "EmptySD3LatentImage": {"width": side, "height": side},
    })  # fmt: skip
    plan = client.send("/ggml/plan", {"prompt": graph, "profile": card, "mode": "fit"})
    if not plan["fits"]:
        return "does not fit"
    chosen = plan["chosen"][node_id(graph, _LOADER)]
    where = "CPU" if chosen["device"] == "CPU" else f"`{chosen['weights']}`"
    gpu, ram = (round(plan["devices"][device]["peak"] / _MIB) for device in ("Vulkan0", "CPU"))
    return f"{where}: {gpu:,} + {ram:,}"


def _file(stored: str) -> str:
    return f"flux1-schnell-{stored}.gguf"


if __name__ == "__main__":
    os.environ.setdefault("GGML_VK_VISIBLE_DEVICES", "0")
    main()
