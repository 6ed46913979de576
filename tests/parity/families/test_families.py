"""Every model family of ComfyUI, at small width, against torch; and that no class of ComfyUI is forgotten."""

from __future__ import annotations

import os

import pytest

from native.client import Runner

from ..places import PLACES, Place
from . import coverage
from .case import FamilyCase
from .cases import CASES, STOPS, chosen
from .run import errors, stop

BY_NAME = {case.name: case for case in CASES}
ON_CPU, ON_VULKAN, _ = PLACES
# Software Vulkan is slow: one case of each kind, with all that kind's operations run there by test_operations.py.
VULKAN = ("SD1.5", "Qwen-Image", "LTX-Video", "T5 base", "CLIP vision L", "TAESD decode", "FLUX VAE decode")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The cases that --families chooses, by whether they are known to stop."""
    if "case" in metafunc.fixturenames:
        cases = chosen(metafunc.config.getoption("--families", default=os.environ.get("FAMILIES", "third")))
        stops = metafunc.function is test_family_that_stops
        names = VULKAN if metafunc.function is test_family_on_vulkan else BY_NAME
        kept = [case for case in cases if (case.name in STOPS) == stops and case.name in names]
        metafunc.parametrize("case", kept, ids=lambda case: case.name)


@pytest.mark.parametrize("place", [ON_CPU], indirect=True, ids=["CPU"])
def test_family(case: FamilyCase, place: Place, runner: Runner) -> None:
    """In F32, at two sizes, traced three times on one module."""
    found = errors(case, place.device, runner)
    assert max(found) <= case.tolerance, found


@pytest.mark.parametrize("place", [ON_VULKAN], indirect=True, ids=["Vulkan-F32"])
def test_family_on_vulkan(case: FamilyCase, place: Place, runner: Runner) -> None:
    """As on the CPU, where the device has no table for GELU."""
    assert max(errors(case, place.device, runner)) <= place.exact


def test_family_that_stops(case: FamilyCase) -> None:
    """It stops for the reason in stops.json; when it does not, python -m tests.parity.families writes the file anew."""
    assert stop(case) == STOPS[case.name]


def test_names() -> None:
    """Every case has a name of its own, and what stops is a case."""
    assert len(BY_NAME) == len(CASES)
    assert set(STOPS) <= set(BY_NAME)


@pytest.fixture(scope="module")
def built() -> set[str]:
    return coverage.built()


@pytest.mark.parametrize(
    "classes",
    [
        coverage.diffusion_models, coverage.text_encoders, coverage.encoders, coverage.autoencoders,
        coverage.control_models,
    ],
)  # fmt: skip
def test_every_class_of_comfyui(classes: coverage.Classes, built: set[str]) -> None:
    """Every class that ComfyUI can build has a case or a named exception, and no exception has a case."""
    missing = classes() - built - set(coverage.EXCEPTIONS)
    assert not missing, f"ComfyUI builds these, which no case has: {sorted(missing)}"
    assert not classes() & built & set(coverage.EXCEPTIONS)
