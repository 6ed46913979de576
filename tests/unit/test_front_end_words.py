"""The words of the panel and of the settings in every language, and the settings that Python reads."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.pack import ROOT, part, schemas

settings, loaders = part("nodes.settings"), part("nodes.planner.loaders")
wanted = part("nodes.conversion.wanted")

LANGUAGES = ("en", "pt-BR", "zh")
SCRIPTS = {path.name: path.read_text("utf-8") for path in (ROOT / "js").glob("*.js")}
KINDS = re.findall(r'"(\w+)"', SCRIPTS["settings.js"].partition("const LOADERS = [")[2].partition("]")[0])


def declared() -> set[str]:
    """The ids of the settings, as js/settings.js has them."""
    assert "id: `GGML.Device.${kind}`" in SCRIPTS["settings.js"]
    devices = {f"GGML.Device.{kind}" for kind in KINDS}
    return set(re.findall(r'"(GGML\.[\w.]+)"', SCRIPTS["settings.js"])) | devices


def test_the_planner_and_the_settings_know_the_same_loaders() -> None:
    assert {f"GGML{kind}" for kind in KINDS} == loaders.LOADERS.keys()
    for node_id, loader in loaders.LOADERS.items():
        schema = schemas()[node_id]
        inputs = {each.id for each in schema.inputs}
        assert loader.title == schema.display_name
        assert {name for name in inputs if name.endswith("device")} == {f"{part.prefix}device" for part in loader.parts}
        residencies = {f"{part.prefix}weights" for part in loader.parts if part.residencies}
        assert residencies == {name for name in inputs if name.endswith("weights")}
        assert bool(residencies) == ({"budget", "engine"} <= inputs)
        assert any(part.tiles for part in loader.parts) == ({"tiling", "tile_size", "overlap"} <= inputs)
        assert loader.releases == ("after_use" in inputs)


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_panel_has_all_its_words(language: str) -> None:
    words = json.loads((ROOT / "locales" / language / "main.json").read_text("utf-8"))["ggmlMemory"]
    used = {key for script in SCRIPTS.values() for key in re.findall(r'\btext\("(\w+)"', script)}
    assert words.keys() == used
    english = json.loads((ROOT / "locales" / "en" / "main.json").read_text("utf-8"))["ggmlMemory"]
    for key, said in words.items():
        assert sorted(re.findall(r"\[\w+\]", said)) == sorted(re.findall(r"\[\w+\]", english[key])), key


@pytest.mark.parametrize("language", [each for each in LANGUAGES if each != "en"])
def test_settings_are_translated(language: str) -> None:
    told = json.loads((ROOT / "locales" / language / "settings.json").read_text("utf-8"))
    assert told.keys() == {name.replace(".", "_") for name in declared()}
    assert all(each["name"] and each["tooltip"] for each in told.values())


@pytest.mark.parametrize("language", LANGUAGES)
def test_commands_are_translated(language: str) -> None:
    declared = re.findall(r'const COMMAND = "([\w.]+)"', SCRIPTS["convert.js"])
    told = json.loads((ROOT / "locales" / language / "commands.json").read_text("utf-8"))
    assert told.keys() == {name.replace(".", "_") for name in declared} != set()
    assert all(each["label"] for each in told.values())
    if language == "en":
        assert all(f'label: "{each["label"]}"' in SCRIPTS["convert.js"] for each in told.values())


def test_python_reads_settings_that_there_are() -> None:
    assert {settings.RESERVE, settings.THREADS, wanted.SETTING} <= declared()


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where ComfyUI keeps the settings of its usual user."""
    monkeypatch.setattr(settings.folder_paths, "get_user_directory", lambda: str(tmp_path))
    (tmp_path / "default").mkdir()
    return tmp_path / "default" / "comfy.settings.json"


RESERVE = '{"GGML.Memory.Reserve": '


@pytest.mark.parametrize("content", [None, "{}", "[]", "no JSON", RESERVE + "-3}", RESERVE + '"a"}'])
def test_a_reserve_that_is_none_is_the_usual_one(file: Path, content: str | None) -> None:
    if content is not None:
        file.write_text(content, encoding="utf-8")
    assert settings.gpu_reserve() == 512 << 20


def test_what_is_set_counts(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text('{"GGML.Memory.Reserve": 0, "GGML.CPU.Threads": 3}', encoding="utf-8")
    monkeypatch.setenv("GGML_CPU_THREADS", "1")  # so that it is as before after the test
    monkeypatch.delenv("GGML_CPU_THREADS")
    settings.set_threads()
    assert settings.gpu_reserve() == 0
    assert settings.os.environ["GGML_CPU_THREADS"] == "3"
    monkeypatch.setenv("GGML_CPU_THREADS", "2")
    settings.set_threads()
    assert settings.os.environ["GGML_CPU_THREADS"] == "2"
