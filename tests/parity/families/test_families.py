"""Every model family of ComfyUI, at small width, against torch; and that no class of ComfyUI is forgotten."""

from __future__ import annotations

import pytest

from native.client import Runner
from tests.conftest import SIXTHS

from ..places import PLACES, Place
from . import coverage, results
from .case import GELU, QUANTIZED, FamilyCase
from .cases import CASES, in_turn
from .conftest import Figure
from .run import errors, quantized_error, stop

BY_NAME = {case.name: case for case in CASES}
STOPS = {name: result.stop for name, result in results.known().items() if result.stop}
MEASURED_ON_VULKAN = {name for name, result in results.known().items() if result.vulkan is not None}
QUANTIZED_ON_VULKAN = ("Flux schnell", "Wan 2.1 t2v", "T5 XXL", "Qwen3 4B", "SigLIP 384 (Redux)")
ON_CPU, ON_VULKAN, ON_VULKAN_F16 = PLACES


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The cases whose turn it is, or all of them; by whether they are known to stop."""
    if "case" in metafunc.fixturenames:
        option = metafunc.config.getoption
        turns = 3 * SIXTHS if metafunc.function is test_family_on_vulkan else SIXTHS
        cases = list(CASES) if option("--all") else in_turn(option("--sample"), turns)
        stops = metafunc.function is test_family_that_stops
        kept = [case for case in cases if (case.name in STOPS) == stops]
        if metafunc.function is test_family_on_vulkan and not option("--all"):
            kept = [case for case in kept if case.name in MEASURED_ON_VULKAN]
        if metafunc.function is test_quantized_family:
            kept = [case for case in kept if case.transformer]
        if metafunc.function is test_quantized_family_on_vulkan:
            kept = [BY_NAME[name] for name in QUANTIZED_ON_VULKAN]
        metafunc.parametrize("case", kept, ids=lambda case: case.name)


@pytest.mark.parametrize("place", [ON_CPU], indirect=True, ids=["CPU"])
def test_family(case: FamilyCase, place: Place, runner: Runner, figure: Figure) -> None:
    """In F32, at two sizes, traced three times on one module."""
    found = errors(case, place.device, runner)
    figure(case.name, "cpu", max(found))
    assert max(found) <= case.tolerance, found


@pytest.mark.parametrize("place", [ON_VULKAN], indirect=True, ids=["Vulkan-F32"])
def test_family_on_vulkan(case: FamilyCase, place: Place, runner: Runner, figure: Figure) -> None:
    """The same for those that were measured there, where GELU takes no tolerance of its own."""
    found = errors(case, place.device, runner)
    figure(case.name, "vulkan", max(found))
    assert max(found) <= (place.exact if case.tolerance >= GELU else max(place.exact, case.tolerance)), found


@pytest.mark.parametrize("place", [ON_CPU], indirect=True, ids=["CPU"])
@pytest.mark.parametrize("kind", QUANTIZED)
def test_quantized_family(case: FamilyCase, kind: str, place: Place, runner: Runner, figure: Figure) -> None:
    """With quantized weights, against torch with the same weights in F32."""
    error, allowed = quantized_error(case, kind, place.device, runner)
    figure(case.name, kind.lower(), error)
    assert error <= allowed


@pytest.mark.parametrize("place", [ON_VULKAN_F16], indirect=True, ids=["Vulkan-F16"])
@pytest.mark.parametrize("kind", QUANTIZED)
def test_quantized_family_on_vulkan(case: FamilyCase, kind: str, place: Place, runner: Runner) -> None:
    """One of each kind, at every run."""
    error, allowed = quantized_error(case, kind, place.device, runner)
    assert error <= allowed


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
