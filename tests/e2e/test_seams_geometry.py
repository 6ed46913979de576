"""Our loaders of models that estimate geometry, draw frames or find motion against core's, on the same files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.pack import part

from .core_model_kinds import CoreKind
from .geometry_kinds import DEPTH, FRAMES, MOGE, MOTION, VIEWS
from .test_seams_core_models import apart, node, pair, picture, result_of

weights = part("native.weights")

import comfy.model_management  # noqa: E402
from comfy.ldm.depth_anything_3.ray_pose import get_extrinsic_from_camray  # noqa: E402
from comfy.ldm.depth_anything_3.transform import affine_inverse  # noqa: E402
from comfy.ldm.moge.model import MoGeModelV1, MoGeModelV2  # noqa: E402
from comfy_extras.void_noise_warp import RaftOpticalFlow  # noqa: E402

BOUND = 2e-3  # relative L2; ggml's CPU reads GELU from a table of F16 values
DEVICES = ("CPU", "Vulkan0")
PLACES = {
    "MoGeInference": "moge",
    "DA3Inference": "depth_anything_3",
    "FrameInterpolate": "frame_interpolation",
    "VOIDWarpedNoise": "void",
}


@pytest.fixture(autouse=True)
def small_and_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """MoGe sees fewer patches. On the CPU core loads it as float16, in which torch cannot resize pictures there."""
    monkeypatch.setattr(comfy.model_management, "text_encoder_dtype", lambda *_: torch.float32)
    for kind in (MoGeModelV1, MoGeModelV2):
        monkeypatch.setattr(kind, "num_tokens_range", (24, 48))


def run(class_type: str, *args: Any, **inputs: Any) -> Any:
    """The result of a node of core's."""
    with torch.inference_mode():
        return result_of(node(f"comfy_extras.nodes_{PLACES[class_type]}:{class_type}").execute(*args, **inputs))


def geometry(model: Any, **changed: Any) -> dict[str, torch.Tensor]:
    inputs = {
        "resolution_level": 0, "fov_x_degrees": 60.0, "batch_size": 1, "force_projection": True, "apply_mask": False,
    } | changed  # fmt: skip
    return run("MoGeInference", model, picture(56, 84, 2), **inputs)


def views(model: Any, count: int, **mode: str) -> dict[str, torch.Tensor]:
    return run("DA3Inference", model, picture(70, 84, count), 84, "upper_bound_resize", {"mode": "mono", **mode})


def assert_alike(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, torch.Tensor) and value.dtype != torch.bool:
            assert apart(found[name], value) <= BOUND, name


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", MOGE, ids=lambda kind: kind.name)
def test_moge_is_as_core(kind: CoreKind, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, core = pair(kind, tmp_path, device, monkeypatch)
    assert_alike(geometry(ours), geometry(core))


@pytest.mark.parametrize("device", DEVICES)
def test_depth_of_pictures_is_as_core(device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, core = pair(DEPTH, tmp_path, device, monkeypatch)
    assert_alike(views(ours, 2), views(core, 2))


@pytest.mark.parametrize("device", DEVICES)
def test_depth_of_views_is_as_core(device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, core = pair(VIEWS, tmp_path, device, monkeypatch)
    modes = [(3, "saddle_balanced"), (2, "first"), (4, "saddle_sim_range"), (3, "middle")]
    for count, strategy in modes if device == "CPU" else modes[:1]:  # each is traced and compiled anew
        mode = {"mode": "multiview", "ref_view_strategy": strategy, "pose_method": "cam_dec"}
        assert_alike(views(ours, count, **mode), views(core, count, **mode))


def test_poses_are_found_in_rays_as_core_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From our rays: with random weights other last digits lead to other poses."""
    ours, core = pair(VIEWS, tmp_path, "CPU", monkeypatch)
    pictures = picture(56, 84, 3).movedim(-1, 1)[None]
    with torch.inference_mode():
        given = {"use_ray_pose": True, "ref_view_strategy": "saddle_balanced"}
        expected = core.model.diffusion_model(pictures, **given)
        for _ in range(2):
            torch.manual_seed(5)
            found = ours.model.diffusion_model(pictures, **given)
            assert found.keys() == expected.keys()
            for name in ("ray", "ray_conf", "depth"):
                assert apart(found[name], expected[name]) <= BOUND, name
            torch.manual_seed(5)
            rays = found["ray"]
            poses, *_ = get_extrinsic_from_camray(rays, found["ray_conf"], *rays.shape[-3:-1])
            assert apart(found["extrinsics"], affine_inverse(poses)[:, :, :3]) <= BOUND


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", FRAMES, ids=lambda kind: kind.name)
def test_frames_between_are_as_core(
    kind: CoreKind, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Features of a frame are kept from one pair to the next, by core's node."""
    ours, core = pair(kind, tmp_path, device, monkeypatch)
    for multiplier in (3, 2):
        found, expected = (run("FrameInterpolate", model, picture(72, 96, 4), multiplier) for model in (ours, core))
        assert apart(found, expected) <= BOUND


def test_motion_is_as_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU alone: its twelve rounds take minutes on a Vulkan of software."""
    models = pair(MOTION, tmp_path, "CPU", monkeypatch)
    first, second = picture(132, 150, 2).movedim(-1, 1)
    with torch.inference_mode():
        found, expected = (RaftOpticalFlow(each.model, "cpu")(first, second) for each in models)
    assert expected.abs().mean() > 0.1  # pixels
    assert apart(found, expected) <= BOUND
