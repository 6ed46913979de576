"""The files that the registry and GitHub read: the pack's metadata, the package's content, issue forms, workflows."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from tests.pack import ROOT, comfy, part

comfy()

from comfy_config.config_parser import extract_node_configuration  # noqa: E402

GITHUB = ROOT / ".github"
DESCRIBED = extract_node_configuration(str(ROOT))
IGNORED = [line for line in (ROOT / ".comfyignore").read_text("utf-8").splitlines() if not line.startswith("#")]


def test_comfyui_understands_the_description() -> None:
    assert DESCRIBED.project.name == "ggml-vulkan"
    assert re.fullmatch(r"\d+\.\d+\.\d+", DESCRIBED.project.version)
    assert DESCRIBED.project.supported_os == ["Microsoft :: Windows", "POSIX :: Linux"]
    assert DESCRIBED.project.supported_comfyui_version == f">={part('nodes.versions').OLDEST_COMFYUI}"
    assert DESCRIBED.project.urls.repository
    assert DESCRIBED.tool_comfy.publisher_id
    assert DESCRIBED.tool_comfy.display_name


def test_the_icon_is_a_small_picture_of_this_repository() -> None:
    icon = ROOT / DESCRIBED.tool_comfy.icon.partition("/main/")[2]
    picture = ElementTree.parse(icon).getroot()
    assert picture.tag.endswith("svg")
    assert max(int(picture.attrib[side]) for side in ("width", "height")) <= 400


def test_the_changelog_begins_with_this_version() -> None:
    headings = re.findall(r"^## ([\d.]+)", (ROOT / "CHANGELOG.md").read_text("utf-8"), flags=re.MULTILINE)
    assert headings[0] == DESCRIBED.project.version


def test_what_is_left_out_of_the_package_is_there_and_not_needed() -> None:
    assert all((ROOT / name).exists() for name in IGNORED)
    imports = re.compile(rf"^\s*(?:from|import) ({'|'.join(Path(name).stem for name in IGNORED)})\b", re.MULTILINE)
    shipped = [ROOT / "plan.py", *(file for folder in ("nodes", "native") for file in (ROOT / folder).rglob("*.py"))]
    assert not [file for file in shipped if imports.search(file.read_text("utf-8"))]


@pytest.mark.parametrize("file", sorted(GITHUB.rglob("*.yml")), ids=lambda file: str(file.name))
def test_files_for_github_are_yaml(file: Path) -> None:
    content = yaml.safe_load(file.read_text("utf-8"))
    assert content["name"]
    if file.parent.name == "workflows":
        assert all(job["runs-on"] and job["steps"] for job in content["jobs"].values())
    else:
        fields = [each["id"] for each in content["body"]]
        assert len(set(fields)) == len(fields)


def test_both_systems_are_tested_and_tags_are_published() -> None:
    jobs = yaml.safe_load((GITHUB / "workflows" / "test.yml").read_text("utf-8"))["jobs"]
    assert jobs["test"]["strategy"]["matrix"]["os"] == ["ubuntu-latest", "windows-latest"]
    assert jobs["publish"]["needs"] == "test"
    assert jobs["publish"]["if"] == "startsWith(github.ref, 'refs/tags/v')"
