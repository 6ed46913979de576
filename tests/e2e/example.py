"""The picture that image_to_image.json loads: ComfyUI brings one of that name, tests put their own in its place."""

from __future__ import annotations

import random

from tests.comfy_server import Client
from tests.micro.drawing import draw
from tests.micro.scenes import Scene, Shape

EXAMPLE = Scene("white", (Shape("red", "circle"),))


def upload_example(client: Client) -> None:
    """Put a drawing of EXAMPLE into the server's input folder."""
    client.upload("example.png", draw(EXAMPLE, 128, random.Random(1)))
