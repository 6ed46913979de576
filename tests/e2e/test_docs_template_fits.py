"""The second table of docs/models.md is what the planner says today of templates with files of their real size."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest

from tests.bench import template_fits
from tests.bench.template_fits import FITTED, Fitted
from tests.templates import packages

PAGE = template_fits.PAGE.read_text(encoding="utf-8")
TABLE = template_fits.between(PAGE, template_fits.BEGIN, template_fits.END)
FILES = PAGE.partition("### ComfyUI's own files")[2].partition("\n## ")[0]


def test_the_table_has_every_template_and_file() -> None:
    assert TABLE[:2] == template_fits.heading()
    assert [tuple(line.split(" | ")[:2]) for line in TABLE[2:]] == [
        (f"| {fitted.title}", kind.name) for fitted in FITTED for kind in fitted.types
    ]


def test_the_choice_by_memory_follows_from_the_table() -> None:
    found = template_fits.between(PAGE, template_fits.BEGIN_CHOICES, template_fits.END_CHOICES)
    assert found == template_fits.choices(TABLE)
    assert [line.split(" | ")[0] for line in found[2:]] == [f"| {fitted.title}" for fitted in FITTED]


def test_the_files_are_those_that_comfyui_names() -> None:
    """In its templates, with the repository that they come from."""
    templates = packages.installed()
    known = "".join(path.read_text(encoding="utf-8") for path in templates.glob("*.json"))
    files, repositories = re.findall(r"`([\w.-]+\.safetensors)`", FILES), re.findall(r"`([\w.-]+/[\w.-]+)`", FILES)
    assert len(files) > 20
    for name in files:
        assert re.search(rf"huggingface\.co/({'|'.join(repositories)})/resolve/\S*{re.escape(name)}", known), name
    assert all(line.split(" | ")[0] in FILES for line in TABLE[2:])


@pytest.fixture
def fitted(request: pytest.FixtureRequest) -> Fitted:
    """The template whose turn it is, by the day of the year."""
    return FITTED[datetime.now(UTC).timetuple().tm_yday % len(FITTED)]


def test_the_table_is_what_the_planner_says(fitted: Fitted) -> None:
    """`python -m tests.bench.template_fits` makes it anew."""
    kind = fitted.types[0]
    with template_fits.serving(fitted) as client:
        assert template_fits.row(client, fitted, kind) in TABLE
