"""Every model family of ComfyUI, at small width, against torch; and that no class of ComfyUI is forgotten."""

from __future__ import annotations

import pytest

from native.client import Runner

from ..places import PLACES, Place
from . import coverage, results
from .case import FamilyCase
from .cases import CASES, third
from .run import errors, stop

BY_NAME = {case.name: case for case in CASES}
STOPS = {name: result.stop for name, result in results.known().items() if result.stop}
ON_CPU, ON_VULKAN, _ = PLACES


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The third of the cases whose turn it is, or all of them; by whether they are known to stop."""
    if "case" in metafunc.fixturenames:
        option = metafunc.config.getoption
        cases = list(CASES) if option("--all") else third(option("--sample"))
        stops = metafunc.function is test_family_that_stops
        metafunc.parametrize("case", [c for c in cases if (c.name in STOPS) == stops], ids=lambda case: case.name)


@pytest.mark.parametrize("place", [ON_CPU, ON_VULKAN], indirect=True, ids=["CPU", "Vulkan-F32"])
def test_family(case: FamilyCase, place: Place, runner: Runner) -> None:
    """In F32, at two sizes, traced three times on one module; Vulkan has no table for GELU."""
    found = errors(case, place.device, runner)
    assert max(found) <= (case.tolerance if place is ON_CPU else place.exact), found


def test_family_that_stops(case: FamilyCase) -> None:
    """It stops where results.json says; when it does not, python -m tests.parity.families --write measures anew."""
    assert stop(case) == STOPS[case.name]


def test_names() -> None:
    """Every case has a name of its own and a result."""
    assert len(BY_NAME) == len(CASES)
    assert set(results.known()) == set(BY_NAME)


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
