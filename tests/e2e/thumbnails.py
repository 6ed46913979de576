"""Draws every workflow and keeps a small copy beside it, which ComfyUI shows in its list of templates.

Of one that no micro model can draw it is a diagram: the file, its parts, and which of them is on a GPU by default.

python -m tests.e2e.thumbnails        COMFYUI_PATH says where ComfyUI is
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from tests import comfy_server
from tests.comfy_server import WORKFLOWS, shipped, workflow
from tests.e2e.example import upload_example
from tools.micro_models import ONLY_REAL

SIDE = 256  # pixels


INK, PAPER = "#1c2733", "#f4f6f8"
ON_GPU, ON_CPU = "#c8e6c9", "#bbdefb"


def main() -> None:
    """Writes workflows/NAME.jpg for every workflows/NAME.json."""
    for name in ONLY_REAL:
        save(diagram(name), name)
    with tempfile.TemporaryDirectory() as base, comfy_server.running(Path(base)) as client:
        upload_example(client)
        for file in sorted(WORKFLOWS.glob("*.json")):
            if file.stem not in ONLY_REAL:
                save(Image.fromarray(client.draw(workflow(file.stem))), file.stem)


def save(picture: Image.Image, name: str) -> None:
    """Writes a thumbnail."""
    path = WORKFLOWS / f"{name}.jpg"
    picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS).save(path, quality=90)
    print(path)


PARTS = (  # of a model in the order in which they compute: loader, part, its input for the device in GGML Checkpoint
    ("GGMLTextEncoders", "CLIP", "clip_device"),
    ("GGMLDiffusionModel", "MODEL", "device"),
    ("GGMLVAE", "VAE", "vae_device"),
)
MADE = {"SaveImage": "picture", "SaveWEBM": "video", "SaveAudioMP3": "sound"}


def diagram(name: str) -> Image.Image:
    """The parts of a model in the order in which they compute, each in the colour of its device."""
    nodes = {node["class_type"]: node["inputs"] for node in shipped(name).values()}
    whole = nodes.get("GGMLCheckpoint")
    made = next(word for node, word in MADE.items() if node in nodes)
    works = ("prompt, picture" if "LoadImage" in nodes else "prompt", "steps", made)
    picture = Image.new("RGB", (2 * SIDE, 2 * SIDE), PAPER)
    draw = ImageDraw.Draw(picture)
    if whole:
        draw.rounded_rectangle((16, 16, 200, 496), 16, "white", INK, 4)
        label(draw, (108, 256), "one file\nmodels/\ncheckpoints", 28)
    left = 248 if whole else 96
    for row, ((loader, part, device), work) in enumerate(zip(PARTS, works, strict=True)):
        middle, right = 88 + 168 * row, left + (248 if whole else 320)
        gpu = (whole[device] if whole else nodes[loader]["device"]) == "auto"
        if whole:
            draw.line((200, middle, 248, middle), INK, 6)
        draw.rounded_rectangle((left, middle - 64, right, middle + 64), 16, ON_GPU if gpu else ON_CPU, INK, 4)
        label(draw, ((left + right) // 2, middle), f"{part}\n{work}\n{'GPU' if gpu else 'CPU'}", 28)
        if row:
            draw.line(((left + right) // 2, middle - 104, (left + right) // 2, middle - 64), INK, 6)
    return picture


def label(draw: ImageDraw.ImageDraw, middle: tuple[int, int], text: str, size: int) -> None:
    """Words around a point."""
    draw.multiline_text(middle, text, INK, ImageFont.load_default(size), anchor="mm", align="center")


if __name__ == "__main__":
    main()
