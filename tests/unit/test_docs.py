"""The pages for people: links lead somewhere, and what they name is in the code."""

from __future__ import annotations

import importlib.util
import re
from functools import cache
from pathlib import Path

import pytest

from native.llm.server_process import GPU_INDEX, PACKAGE, VERSION
from tests.pack import ROOT, schemas
from tests.unit.test_help import BETWEEN_LITERALS
from tools import ggml_wheel, llama_wheel

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SOURCES = [
    ROOT / "install.py",
    ROOT / "plan.py",
    *(file for name in ("nodes", "native", "tools") for file in (ROOT / name).rglob("*.py")),
]
LINK = re.compile(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)")
PLACE = re.compile(r"`((?:docs|js|native|nodes|tests|tools|workflows)/[\w./-]*)`")
VARIABLE = re.compile(r"\b(?:COMFYUI|GGML|MESA)_[A-Z0-9_]+")
KEY_PREFIX = "GGML_LLM_"  # any name that begins so is a variable that a user may choose
NO_NODE = {"GGML Vulkan"}  # the pack's own name

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.name))


def words(page: Path) -> str:
    """A page without its line breaks."""
    return " ".join(page.read_text(encoding="utf-8").split())


def code() -> str:
    return "\n".join(file.read_text(encoding="utf-8") for file in SOURCES)


def anchors(page: Path) -> set[str]:
    """The names by which GitHub links to a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_page
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for target, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        file = page.parent / target if target else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), f"{target}#{anchor}"


@each_page
def test_files_and_folders_are_there(page: Path) -> None:
    places = set(PLACE.findall(page.read_text(encoding="utf-8"))) - {"js/docs/NODE_ID.md"}  # which stands for each
    assert not [place for place in places if not (ROOT / place).exists()]


def test_the_pages_are_all_linked_from_the_readme() -> None:
    linked = {target for target, _ in LINK.findall((ROOT / "README.md").read_text(encoding="utf-8"))}
    assert {str(page.relative_to(ROOT).as_posix()) for page in PAGES[1:]} <= linked


@each_page
def test_environment_variables_are_read_by_the_pack_or_by_ggml(page: Path) -> None:
    named = VARIABLE.findall(page.read_text(encoding="utf-8"))
    assert not [name for name in named if name not in variables_read() and not name.startswith(KEY_PREFIX)]


@cache
def variables_read() -> frozenset[str]:
    """Those that the pack's code names, or the libraries of ggml."""
    spec = importlib.util.find_spec("ggml")
    assert spec is not None
    assert spec.origin is not None
    libraries = [file for file in Path(spec.origin).parent.rglob("*ggml*") if file.suffix in (".so", ".dll")]
    texts = [code(), *(file.read_text("latin-1") for file in libraries)]
    return frozenset(name for text in texts for name in VARIABLE.findall(text))


def test_every_environment_variable_of_the_pack_is_in_the_table() -> None:
    theirs = {"GGML_LLM", "GGML_NO_BACKTRACE", "MESA_SHADER_CACHE_DIR"}  # a socket's type; what the pack sets itself
    read = set(re.findall(rf'"({VARIABLE.pattern})"', code())) - theirs
    table = re.findall(r"^\| (`.+?) \|", (ROOT / "docs" / "api.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert read <= {name for row in table for name in VARIABLE.findall(row)}


@each_page
def test_nodes_are_named_as_they_are(page: Path) -> None:
    named = set(re.findall(r"\bGGML[A-Z][A-Za-z]+\b", words(page)))
    shown = set(re.findall(r"\bGGML(?: [A-Z][A-Za-z]+)+", words(page)))
    assert named <= set(schemas())
    assert shown <= {schema.display_name for schema in schemas().values()} | NO_NODE


def test_messages_are_quoted_as_they_are_said() -> None:
    quoted = re.findall(r'\*\*"(.+?)"\*\*', words(ROOT / "docs" / "troubleshooting.md"))
    assert quoted
    said = BETWEEN_LITERALS.sub("", code())
    assert not [message for message in quoted if message not in said]


def test_the_commands_install_what_the_pack_asks_for() -> None:
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    required = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert set(re.findall(r"ggml-python==[\d.]+", page)) == {ggml_wheel.REQUIREMENT}
    assert not [line for line in required if line.startswith("ggml-python")]  # install.py chooses its build
    assert re.findall(r"https://\S+/whl/\w+", page) == [ggml_wheel.PREBUILT_INDEX]
    assert page.count("requirements.txt\n    p") == page.count("install.py\n\n") == 4
    page = (ROOT / "docs" / "language_models.md").read_text(encoding="utf-8")
    assert set(re.findall(r"index-url (\S+)", page)) == {llama_wheel.PREBUILT_INDEX} == {GPU_INDEX}
    assert set(re.findall(rf"{PACKAGE}==[\d.]+", page)) == {f"{PACKAGE}=={VERSION}"}
    assert f"{PACKAGE}=={VERSION}" in required


def test_the_picture_shows_folders_that_are_there() -> None:
    drawing = (ROOT / "docs" / "architecture.svg").read_text(encoding="utf-8")
    shown = re.findall(r">[^<>]*?((?:native|nodes)(?:/\w+)?)\b", drawing)
    assert {"native/runner", "native/llm"} <= set(shown)
    assert not [folder for folder in shown if not (ROOT / folder).is_dir()]
