"""Official templates: of twenty-five that stand for all, those whose turn it is are planned."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch

from tests.conftest import SAMPLES
from tests.templates import packages, planning, report, running
from tests.templates.stratified import NOT_PLANNED, RUN, STRATIFIED


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    option = metafunc.config.getoption
    if "small" in metafunc.fixturenames:
        metafunc.parametrize("small", RUN if option("--all") else RUN[option("--sample") % len(RUN) :][:1])
    if "name" in metafunc.fixturenames:
        turn = STRATIFIED if option("--all") else STRATIFIED[option("--sample") % SAMPLES :: SAMPLES]
        metafunc.parametrize("name", turn)


@pytest.fixture(scope="module")
def templates() -> dict[str, packages.Template]:
    return {each.name: each for each in packages.templates(packages.installed())}


def test_a_template_is_planned(templates: dict[str, packages.Template], name: str, tmp_path: Path) -> None:
    result = planning.plan(templates[name], tmp_path, planning.CARDS[:1])
    assert result.opened, report.line(result)
    assert result.converted, report.line(result)
    assert result.planned == (name not in NOT_PLANNED), report.line(result)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[running.Runs]:
    with closing(running.Runs(tmp_path_factory.mktemp("templates"))) as made:
        yield made


def test_a_template_runs_small_as_with_cores_loaders(
    runs: running.Runs, templates: dict[str, packages.Template], small: str
) -> None:
    result = planning.Result(small)
    runs.run(templates[small], result)
    assert result.equal is not None, report.line(result)
    assert result.equal >= report.ALIKE, report.line(result)


def test_results_are_compared_to_the_last_of_them() -> None:
    core = [torch.linspace(0, 1, 100), "a text"]
    assert running.alike([core[0].clone(), "a text"], core) == 99.0
    assert running.alike([core[0] + 0.1, "a text"], core) == pytest.approx(20.0, abs=0.1)
    with pytest.raises(running.Unlike, match="core's 'a text'"):
        running.alike([core[0], "another"], core)
    with pytest.raises(running.Unlike, match="no numbers, and core's has none"):
        running.alike([core[0] * torch.nan, "a text"], core)
    with pytest.raises(running.Unlike, match="1 results, and core's 2"):
        running.alike(core[:1], core)
