"""How many prompts that training never saw the micro FLUX draws right, through a ComfyUI server.

python -m tests.e2e.held_out [F16 Q8_0 ...]        COMFYUI_PATH says where ComfyUI is
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from PIL import Image

from tests.comfy_server import Client, changed, running, workflow
from tests.micro.captions import plain_caption
from tests.micro.checker import faults
from tests.micro.scenes import held_out_scenes

SCENES = held_out_scenes(singles=20, pairs=20)
TEXT_TO_IMAGE = workflow("text_to_image")
MODEL = TEXT_TO_IMAGE["1"]["inputs"]["model_name"]


def wrong_pictures(client: Client, kind: str) -> list[str]:
    """What is wrong with the pictures, one line each; empty when all 40 show the colours, shapes and places asked."""
    wrong = []
    for seed, scene in enumerate(SCENES):
        changes = {
            "GGMLDiffusionModel": {"model_name": MODEL.replace("F16", kind)},
            "CLIPTextEncode": {"text": plain_caption(scene)},
            "KSampler": {"seed": seed},
        }
        drawn = Image.fromarray(client.draw(changed(TEXT_TO_IMAGE, changes)))
        if said := faults(drawn, scene):
            wrong.append(f"{plain_caption(scene)}: {'; '.join(said)}")
    return wrong


def main(kinds: list[str]) -> None:
    """Prints the faults and the share that is right, for each quantization."""
    with tempfile.TemporaryDirectory() as base, running(Path(base)) as client:
        for kind in kinds:
            wrong = wrong_pictures(client, kind)
            print(*wrong, f"{kind}: {len(SCENES) - len(wrong)} of {len(SCENES)} right", sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:] or ["F16", "Q8_0", "Q4_0"])
