"""Model folders: what is registered, what is offered, and what is noticed when a file changes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.pack import part

files = part("nodes.loaders.files")

import folder_paths  # noqa: E402

Table = dict[str, tuple[list[str], set[str]]]


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Table:
    """A folder table of our own in place of ComfyUI's: two model folders, the rest in one each."""
    found: Table = {}
    for folder, names in {
        "diffusion_models": ("unet", "diffusion_models"),
        "text_encoders": ("t",),
        "vae": ("v",),
        "checkpoints": ("c",),
    }.items():
        for name in names:
            (tmp_path / name).mkdir()
        found[folder] = ([str(tmp_path / name) for name in names], {".safetensors", ".ckpt"})
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", found)
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    return found


def touch(folder: str, name: str) -> Path:
    path = Path(folder) / name
    path.write_bytes(b"x")
    return path


def test_offers_gguf_of_every_folder_then_safetensors(table: Table) -> None:
    unet, diffusion = table["diffusion_models"][0]
    for folder, name in ((unet, "b.gguf"), (diffusion, "a.GGUF"), (unet, "c.safetensors"), (unet, "d.ckpt")):
        touch(folder, name)
    files.register_folders()
    assert files.model_names("diffusion_models") == ["a.GGUF", "b.gguf", "c.safetensors"]
    assert files.model_path("diffusion_models", "a.GGUF") == os.path.join(diffusion, "a.GGUF")
    assert files.model_path("diffusion_models", "c.safetensors") == os.path.join(unet, "c.safetensors")


def test_keeps_what_others_registered_and_changes_nothing_of_theirs(table: Table, tmp_path: Path) -> None:
    theirs, extensions = [str(tmp_path / "elsewhere")], {".gguf", ".other"}
    table["unet_gguf"] = (theirs, extensions)
    shared, shared_extensions = table["diffusion_models"]
    before = list(shared), set(shared_extensions)
    files.register_folders()
    paths, kept = table["unet_gguf"]
    assert paths == [*theirs, *shared]
    assert kept == {".gguf", ".other"}
    assert (theirs, extensions) == ([str(tmp_path / "elsewhere")], {".gguf", ".other"})
    assert (shared, shared_extensions) == before


def test_folder_added_later_counts(table: Table, tmp_path: Path) -> None:
    files.register_folders()
    (tmp_path / "late").mkdir()
    touch(str(tmp_path / "late"), "m.gguf")
    folder_paths.add_model_folder_path("vae", str(tmp_path / "late"))
    assert files.model_names("vae") == ["m.gguf"]


def test_key_without_extensions_lists_gguf_only(table: Table) -> None:
    """extra_model_paths.yaml makes keys that let every file pass."""
    table["clip_gguf"] = (list(table["text_encoders"][0]), set())
    touch(table["text_encoders"][0][0], "readme.txt")
    touch(table["text_encoders"][0][0], "t5.gguf")
    files.register_folders()
    assert files.model_names("text_encoders") == ["t5.gguf"]


def test_missing_file_names_the_folders_searched(table: Table) -> None:
    files.register_folders()
    with pytest.raises(FileNotFoundError, match=r"gone\.gguf is not in any of the folders") as error:
        files.model_path("vae", "gone.gguf")
    assert table["vae"][0][0] in str(error.value)


def test_fingerprint_changes_with_the_file_only(table: Table) -> None:
    files.register_folders()
    path = touch(table["vae"][0][0], "m.gguf")
    first = files.fingerprint("vae", ["m.gguf", files.NONE])
    assert files.fingerprint("vae", ["m.gguf", files.NONE]) == first
    path.write_bytes(b"longer")
    assert files.fingerprint("vae", ["m.gguf"]) != first


def test_language_models_have_a_folder(table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path))
    files.register_folders()
    assert table["LLM"] == ([str(tmp_path / "LLM")], {".gguf"})
    assert files.language_model_names() == []
    (tmp_path / "LLM").mkdir()
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    for name in ("b.gguf", "B-mmproj-F16.gguf", "config.json"):
        touch(str(tmp_path / "LLM"), name)
    assert files.language_model_names() == ["b.gguf"]
    assert files.projector_names() == ["B-mmproj-F16.gguf"]


def test_a_folder_of_language_models_that_others_registered_counts(table: Table, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    theirs = table["LLM"] = ([str(tmp_path / "theirs")], {".bin", ""})
    for name in ("m.gguf", "m.bin"):
        touch(str(tmp_path / "theirs"), name)
    files.register_folders()
    assert files.language_model_names() == ["m.gguf"]
    assert table["LLM"] is theirs
    assert theirs == ([str(tmp_path / "theirs")], {".bin", ""})
