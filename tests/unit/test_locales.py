"""The nodes' texts in other languages: as many as the schemas have, whole, and true to what programs read."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.pack import ROOT, schemas

Json = dict[str, Any]

LOCALES = {path.parent.name: json.loads(path.read_text("utf-8")) for path in ROOT.glob("locales/*/nodeDefs.json")}
VERBATIM = re.compile(r"https?://[\w.:/]*\w|[A-Z]+(?:_[A-Z]+)+|models/\w+|-?\d+")
MARKUP = re.compile(r"[{}@|]")  # placeholders, links and plurals to the front end


def texts_of(schema: Any) -> Json:
    """A node's texts in a locale's layout, from its schema; without outputs that have no name: their type is shown."""
    texts: Json = {"display_name": schema.display_name, "description": schema.description}
    for each in schema.inputs:
        said = {"name": each.display_name or each.id, "tooltip": each.tooltip}
        texts.setdefault("inputs", {})[each.id] = {key: text for key, text in said.items() if text}
    for index, output in enumerate(schema.outputs):
        if output.display_name:
            texts.setdefault("outputs", {})[str(index)] = {"name": output.display_name}
    return texts


def flat(texts: Json, path: str = "") -> dict[str, str]:
    """Every text by its dotted key."""
    found = {}
    for key, value in texts.items():
        inner = f"{path}.{key}" if path else key
        found.update(flat(value, inner) if isinstance(value, dict) else {inner: value})
    return found


ENGLISH = flat({name: texts_of(schema) for name, schema in schemas().items()})


def test_the_front_end_has_these_languages() -> None:
    assert sorted(LOCALES) == ["en", "pt-BR", "zh"]


def test_english_is_what_the_nodes_say() -> None:
    assert flat(LOCALES["en"]) == ENGLISH


@pytest.mark.parametrize("language", LOCALES)
def test_no_key_lacks_and_none_is_too_many(language: str) -> None:
    assert flat(LOCALES[language]).keys() == ENGLISH.keys()


@pytest.mark.parametrize("language", LOCALES)
def test_texts_are_plain(language: str) -> None:
    for key, text in flat(LOCALES[language]).items():
        assert text.strip() == text != "", key
        assert not MARKUP.search(text), key


@pytest.mark.parametrize("language", LOCALES)
def test_what_programs_read_is_not_translated(language: str) -> None:
    for key, text in flat(LOCALES[language]).items():
        assert set(VERBATIM.findall(text)) == set(VERBATIM.findall(ENGLISH[key])), key
        for choice in choices(key):
            assert f"{choice}:" in text or f"{choice}\N{FULLWIDTH COLON}" in text, (key, choice)


@pytest.mark.parametrize("language", LOCALES)
def test_nodes_are_called_by_their_names(language: str) -> None:
    texts = flat(LOCALES[language])
    for key, text in texts.items():
        for node in schemas():
            name = f"{node}.display_name"
            assert ENGLISH[name] not in ENGLISH[key] or texts[name] in text, (key, node)


def choices(key: str) -> list[str]:
    """The values that the English tooltip of this key explains."""
    node, _, rest = key.partition(".")
    found = [each for each in schemas()[node].inputs if rest == f"inputs.{each.id}.tooltip"]
    options = [str(option) for each in found for option in getattr(each, "options", None) or []]
    return [option for option in options if f"{option}:" in ENGLISH[key]]
