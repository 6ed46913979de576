"""Plan requests, from the inputs of the planner's node and from the API."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.pack import part

request, planning, unknown = part("nodes.planner.request"), part("native.planning"), part("nodes.planner.unknown")

MIB = 1 << 20
MINE = {"name": "mine", "system": "linux", "ram": 8192, "gpus": [{"description": "a card", "memory": 4096}]}


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's own profiles."""
    monkeypatch.setattr(request, "own_profiles", lambda: tmp_path / "ggml_profiles.json")
    return tmp_path / "ggml_profiles.json"


def test_profiles_of_ones_own_are_offered(own: Path) -> None:
    own.write_text(json.dumps([MINE]), encoding="utf-8")
    assert request.profile_names() == ["this machine", *planning.known_profiles(), "mine"]
    assert request.profile_named("mine").devices[0].total == 4096 * MIB


def test_a_broken_file_leaves_the_others(own: Path) -> None:
    own.write_text("[{", encoding="utf-8")
    assert request.profile_names() == ["this machine", *planning.known_profiles()]
    assert request.profile_named("this machine") is None
    with pytest.raises(planning.ProfileError, match=r"ggml_profiles\.json cannot be read"):
        request.profile_named("mine")


@pytest.mark.parametrize("name", ["mine", None, 7, ["1", 0], {}])
def test_what_is_not_there_is_named(name: Any, own: Path) -> None:
    with pytest.raises(planning.ProfileError, match="There is no hardware profile .* go into .*ggml_profiles"):
        request.profile_named(name)


@pytest.mark.parametrize("junk", [None, "x", -1, "-1", True, ["1", 0], {}, float("nan"), float("inf")])
@pytest.mark.parametrize(
    "name", ["mode", "gpu_budget", "ram_budget", "unknown_width", "unknown_height", "unknown_batch"]
)
def test_what_makes_no_sense_is_named(name: str, junk: Any) -> None:
    with pytest.raises(request.RequestError, match=f"^{name} is ") as caught:
        request.request_of({name: junk})
    assert caught.value.name == name


def test_numbers_are_read_as_comfyui_reads_them() -> None:
    found = request.request_of({"gpu_budget": "3", "ram_budget": 5.0, "unknown_batch": 0})
    assert (found.gpu_budget, found.ram_budget, found.unknown.batch) == (3 * MIB, 5 * MIB, 1)


def test_a_budget_that_nobody_knows_yet_is_refused() -> None:
    with pytest.raises(request.RequestError, match="gpu_budget cannot be known before the workflow runs, as a model"):
        request.request_of({"gpu_budget": unknown.Unknown("a model says it")})


def test_amounts_are_mebibytes() -> None:
    found = request.request_of({"mode": "fit", "gpu_budget": 3, "ram_budget": 5, "unknown_width": 64})
    assert (found.mode, found.gpu_budget, found.ram_budget) == ("fit", 3 * MIB, 5 * MIB)
    assert (found.unknown.width, found.unknown.height, found.unknown.batch) == (64, 0, 1)


def test_room_is_what_is_free_less_a_reserve() -> None:
    profile = planning.profile_of({**MINE, "ram_free": 7000, "gpus": [{**MINE["gpus"][0], "free": 3000}]})
    machine = request.machine_of(request.PlanRequest(profile=profile))
    assert machine.capacity == {"Vulkan0": (3000 - 512) * MIB, "CPU": 7000 * MIB - 8192 * MIB // 5}
    machine = request.machine_of(request.PlanRequest(profile=profile, gpu_budget=7 * MIB, ram_budget=9 * MIB))
    assert machine.capacity == {"Vulkan0": 7 * MIB, "CPU": 9 * MIB}
