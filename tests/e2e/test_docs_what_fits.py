"""The table of docs/models.md is what the planner says today; the files it names are as large as it says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from gguf import GGMLQuantizationType as Kind

from tests.bench import real_size_files, what_fits
from tests.comfy_server import WORKFLOWS, Client

PAGE = what_fits.PAGE.read_text(encoding="utf-8")
TABLE = PAGE.partition(what_fits.BEGIN)[2].partition(what_fits.END)[0].splitlines()
SIZES = re.findall(r"`flux1-schnell-(\w+)\.gguf`(?: \(| \| )([\d.]+) GB", PAGE)
MADE_ANEW = "Q4_K_S"  # which is on some of the cards and streams through others


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with what_fits.serving() as serving:
        yield serving


@pytest.mark.turns(3)
@pytest.mark.parametrize("card", what_fits.CARDS)
def test_the_table_is_what_the_planner_says(client: Client, card: str) -> None:
    """`python -m tests.bench.what_fits` makes it anew."""
    assert what_fits.row(client, card, MADE_ANEW) in TABLE


def test_the_table_has_every_card_and_file() -> None:
    assert TABLE[:2] == what_fits.heading()
    assert [tuple(line.split(" | ")[:2]) for line in TABLE[2:]] == [
        (f"| {card}", stored) for card in what_fits.CARDS for stored in what_fits.TYPES
    ]


@pytest.mark.parametrize(("stored", "said"), sorted(set(SIZES)))
def test_the_sizes_are_those_of_the_files(stored: str, said: str, tmp_path: Path) -> None:
    real_size_files.write(tmp_path / "model", real_size_files.flux(Kind[stored.removesuffix("_S")]), hollow=True)
    assert f"{(tmp_path / 'model').stat().st_size / 1e9:.1f}" == said


def test_the_page_names_what_the_notes_in_the_workflows_name() -> None:
    graph = json.loads((WORKFLOWS / "text_to_image.json").read_text(encoding="utf-8"))
    note = next(node["widgets_values"][0] for node in graph["nodes"] if "Hugging Face" in str(node["widgets_values"]))
    files = re.findall(r"\[([\w.-]+\.(?:gguf|safetensors))\]\(\S+\) \(([\d.]+) GB\) from \*\*([\w./-]+)\*\*", note)
    assert len(files) == 4
    for name, size, repository in files:
        assert re.search(rf"`{re.escape(name)}` \| {size} GB", PAGE), name
        assert f"`{repository}`" in PAGE
