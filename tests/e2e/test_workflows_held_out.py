"""The micro FLUX draws what it is asked, in combinations that training never saw, through a ComfyUI server."""

from __future__ import annotations

import pytest
from PIL import Image

from tests.comfy_server import Client, changed, workflow
from tests.micro.captions import plain_caption
from tests.micro.checker import faults
from tests.micro.scenes import held_out_scenes

SCENES = held_out_scenes(singles=20, pairs=20)
MOST_WRONG = 4  # of 40
TEXT_TO_IMAGE = workflow("text_to_image")
MODEL = TEXT_TO_IMAGE["1"]["inputs"]["model_name"]


@pytest.mark.turns(2)
@pytest.mark.parametrize("kind", ["F16", "Q8_0"])
def test_nine_of_ten_pictures_show_what_was_asked(comfyui: Client, kind: str) -> None:
    wrong = []
    for seed, scene in enumerate(SCENES):
        changes = {
            "GGMLDiffusionModel": {"model_name": MODEL.replace("F16", kind)},
            "CLIPTextEncode": {"text": plain_caption(scene)},
            "KSampler": {"seed": seed},
        }
        drawn = Image.fromarray(comfyui.draw(changed(TEXT_TO_IMAGE, changes)))
        if said := faults(drawn, scene):
            wrong.append(f"{plain_caption(scene)}: {'; '.join(said)}")
    assert len(wrong) <= MOST_WRONG, "\n".join(wrong)
