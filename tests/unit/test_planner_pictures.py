"""The planner takes pictures, sound and video to be as large as ComfyUI's nodes load them, without reading them."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from tests.pack import part
from tests.templates import inputs

rules = part("nodes.planner.input_files")
other_nodes, samplers, unknown = (part(f"nodes.planner.{name}") for name in ("other_nodes", "rules", "unknown"))

import comfy.latent_formats  # noqa: E402
import comfy.sd  # noqa: E402
import folder_paths  # noqa: E402
from comfy_api.latest import InputImpl  # noqa: E402
from comfy_extras import nodes_audio  # noqa: E402

import nodes  # noqa: E402

ORIENTATION, SIZE = 0x0112, inputs.Size(48, 32, 5)


def _turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return _saved("JPEG", exif=exif)


def _saved(kind: str, frames: int = 1, **options: object) -> bytes:
    first, *others = [Image.new("RGB", (40, 24), (50 * n, 9, 9)) for n in range(frames)]
    file = io.BytesIO()
    first.save(file, kind, **({"save_all": True, "append_images": others} if others else {}), **options)
    return file.getvalue()


PICTURES = {
    "plain.png": _saved("PNG"),
    **{f"turned {n}.jpg": _turned(n) for n in range(1, 9)},
    "animated.gif": _saved("GIF", 3),
    "animated.webp": _saved("WEBP", 4),
    "animated.png": _saved("PNG", 3),
    "plain.webp": _saved("WEBP"),
}


@pytest.mark.parametrize("name", PICTURES)
def test_as_large_as_loaded(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / name).write_bytes(PICTURES[name])
    monkeypatch.setattr(folder_paths, "get_input_directory", lambda: str(tmp_path))
    planned, mask = rules.load_image({"image": name}, None)
    loaded, _ = nodes.LoadImage().load_image(name)
    assert planned.shape == loaded.shape
    assert mask.shape == loaded.shape[:-1]


def test_sound_and_video_as_long_as_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_paths, "get_input_directory", lambda: str(tmp_path))
    inputs.write_inputs({"1": {"class_type": "Load", "inputs": {"a": "a.wav", "b": "b.mp4"}}}, tmp_path, SIZE)
    (sound,) = rules.load_audio({"audio": "a.wav"}, None)
    loaded, rate = nodes_audio.load(str(tmp_path / "a.wav"))
    assert (sound["waveform"].shape[1:], sound["sample_rate"]) == (loaded.shape, rate)
    planned = rules.load_video({"file": "b.mp4"}, None)[0].get_components()
    real = InputImpl.VideoFromFile(str(tmp_path / "b.mp4")).get_components()
    assert (planned.images.shape, planned.frame_rate) == (real.images.shape, real.frame_rate)


def test_what_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_paths, "get_input_directory", lambda: str(tmp_path))
    (tmp_path / "no.wav").write_bytes(b"no sound")
    for rule, name in ((rules.load_audio, "audio"), (rules.load_video, "file"), (rules.load_image, "image")):
        with pytest.raises(unknown.Unplanned, match=r"no\.wav cannot be read"):
            rule({name: "no.wav"}, None)


def test_unknown_sound_has_not_the_size_of_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(other_nodes, "is_ours", lambda _: True)
    latent, turn = unknown.Unknown("it is not known"), unknown.NodeTurn(None, unknown.Size(64, 32, 2))
    vae = object.__new__(comfy.sd.VAE)
    vae.first_stage_model, vae.latent_channels = SimpleNamespace(ratio=8), 64
    for dimensions, space in ((2, comfy.latent_formats.Flux()), (1, comfy.latent_formats.ACEAudio15())):
        vae.latent_dim = dimensions
        decoded = other_nodes._assumed(nodes.VAEDecode, "samples", latent, {"samples": latent, "vae": vae}, turn)
        if dimensions == 2:
            assert decoded["samples"].shape == (2, 64, 4, 8)
            assert samplers._latent({"latent_image": latent}, turn, space)["samples"].shape == (2, 16, 4, 8)
        else:
            assert decoded is latent
            with pytest.raises(unknown.Unplanned, match="it is not known"):
                samplers._latent({"latent_image": latent}, turn, space)
