"""Official templates: of twenty-five that stand for all, those whose turn it is are planned."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import SAMPLES
from tests.templates import packages, planning, report
from tests.templates.stratified import NOT_PLANNED, STRATIFIED


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "name" in metafunc.fixturenames:
        option = metafunc.config.getoption
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
