"""Draws every workflow and keeps a small copy beside it, which ComfyUI shows in its list of templates.

python -m tests.e2e.thumbnails        COMFYUI_PATH says where ComfyUI is
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from PIL import Image

from tests import comfy_server
from tests.comfy_server import WORKFLOWS, workflow
from tests.e2e.example import upload_example

SIDE = 256  # pixels


def main() -> None:
    """Writes workflows/NAME.jpg for every workflows/NAME.json."""
    with tempfile.TemporaryDirectory() as base, comfy_server.running(Path(base)) as client:
        upload_example(client)
        for file in sorted(WORKFLOWS.glob("*.json")):
            drawn = Image.fromarray(client.draw(workflow(file.stem)))
            drawn.resize((SIDE, SIDE), Image.Resampling.LANCZOS).save(file.with_suffix(".jpg"), quality=90)
            print(file.with_suffix(".jpg"))


if __name__ == "__main__":
    main()
