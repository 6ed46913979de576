"""The help pages that ComfyUI shows beside a node: of every node, about all of it, and quoting what is really said."""

from __future__ import annotations

import re

import pytest

from tests.pack import ROOT, load, schemas

DOCS = ROOT / "js" / "docs"
BETWEEN_LITERALS = re.compile(r"""["']\s*\n?\s*f?["']""")


def sections(name: str) -> dict[str, str]:
    """A page by its headings; what stands before the second is under the first."""
    _, *parts = re.split(r"^#+ (.+)$", (DOCS / f"{name}.md").read_text("utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def described(section: str) -> list[str]:
    return re.findall(r"^- \*\*(\w+)\*\*: .", section, flags=re.MULTILINE)


def test_the_front_end_finds_a_page_for_every_node() -> None:
    assert (ROOT / load("helpful_pack").WEB_DIRECTORY / "docs").samefile(DOCS)
    assert {file.stem for file in DOCS.iterdir()} == set(schemas())


@pytest.mark.parametrize("name", schemas())
def test_a_page_tells_of_every_input_and_output(name: str) -> None:
    schema = schemas()[name]
    page = sections(name)
    headings = ["Inputs", "Outputs", "Example", "When it fails"][0 if schema.inputs else 1 :]
    assert list(page) == [schema.display_name, *headings]
    assert described(page.get("Inputs", "")) == [each.id for each in schema.inputs]
    assert described(page["Outputs"]) == [each.display_name or each.get_io_type() for each in schema.outputs]
    assert all(text.strip() for text in page.values())


@pytest.mark.parametrize("name", schemas())
def test_what_a_page_quotes_is_said_by_the_code(name: str) -> None:
    quoted = re.findall(r'^- \*\*"(.+?)"\*\*', sections(name)["When it fails"], flags=re.MULTILINE)
    sources = [file for folder in ("nodes", "native") for file in (ROOT / folder).rglob("*.py")]
    code = "\n".join(BETWEEN_LITERALS.sub("", file.read_text("utf-8")) for file in sources)
    assert not [message for message in quoted if message not in code]


@pytest.mark.parametrize("name", schemas())
def test_a_page_tells_of_every_choice(name: str) -> None:
    """Of those that are the same on every machine, unlike files, devices and hardware."""
    inputs = sections(name).get("Inputs", "")
    for each in schemas()[name].inputs:
        options = getattr(each, "options", None) or []
        if getattr(each, "default", None) in options and not each.id.endswith(("device", "hardware")):
            assert not [choice for choice in options if choice not in inputs], each.id
