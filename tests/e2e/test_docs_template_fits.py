"""The second table of docs/models.md is what the planner says today of templates with files of their real size."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tests.bench import template_fits
from tests.bench.template_fits import FITTED, Fitted

PAGE = template_fits.PAGE.read_text(encoding="utf-8")
TABLE = PAGE.partition(template_fits.BEGIN)[2].partition(template_fits.END)[0].splitlines()


def test_the_table_has_every_template_and_file() -> None:
    assert TABLE[:2] == template_fits.heading()
    assert [tuple(line.split(" | ")[:2]) for line in TABLE[2:]] == [
        (f"| {fitted.title}", kind.name) for fitted in FITTED for kind in fitted.types
    ]


@pytest.fixture
def fitted(request: pytest.FixtureRequest) -> Fitted:
    """The template whose turn it is, by the day of the year."""
    return FITTED[datetime.now(UTC).timetuple().tm_yday % len(FITTED)]


def test_the_table_is_what_the_planner_says(fitted: Fitted) -> None:
    """`python -m tests.bench.template_fits` makes it anew."""
    kind = fitted.types[0]
    with template_fits.serving(fitted) as client:
        assert template_fits.row(client, fitted, kind) in TABLE
