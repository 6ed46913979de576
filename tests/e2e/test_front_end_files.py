"""Files of this pack that the front end fetches: help pages, locales, templates and their thumbnails."""

from __future__ import annotations

import pytest

from tests.comfy_server import ROOT, WORKFLOWS, Client, picture
from tools.server import PACK_NAME

NODES = sorted(file.stem for file in (ROOT / "js" / "docs").glob("*.md"))
TEMPLATES = sorted(file.stem for file in WORKFLOWS.glob("*.json"))


@pytest.mark.parametrize("name", NODES)
def test_help_pages_are_where_the_front_end_asks_for_them(comfyui: Client, name: str) -> None:
    pack = comfyui.get(f"/object_info/{name}")[name]["python_module"].split(".")[1]
    page = comfyui.server.get(f"/extensions/{pack}/docs/{name}.md").decode()
    assert page == (ROOT / "js" / "docs" / f"{name}.md").read_text("utf-8")


def test_languages_are_served(comfyui: Client) -> None:
    found = comfyui.get("/i18n")
    assert found["zh"]["nodeDefs"]["GGMLDevices"]["display_name"] == "GGML 设备"
    assert {language for language in found if "GGMLDevices" in found[language]["nodeDefs"]} == {"en", "pt-BR", "zh"}


def test_every_workflow_is_a_template_and_nothing_else_is(comfyui: Client) -> None:
    """The API formats are not: the template browser cannot open them."""
    assert sorted(comfyui.get("/workflow_templates")[PACK_NAME]) == TEMPLATES


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_are_served_with_thumbnails(comfyui: Client, name: str) -> None:
    address = f"/api/workflow_templates/{PACK_NAME}/{name}"
    assert comfyui.get(f"{address}.json")["nodes"]
    assert picture(comfyui.server.get(f"{address}.jpg")).shape[2] == 3
