"""`dev.py matrix`: a row that cannot run is told and is no pass."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tools import matrix
from tools.matrix import OLD_TORCH, ROWS, Row
from tools.places import Places
from tools.steps import Failure

THIS_PYTHON = "{}.{}".format(*sys.version_info[:2])


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(root=tmp_path, state=tmp_path / ".dev", cache=tmp_path / "cache")


def test_rows_are_chosen_by_name() -> None:
    assert matrix.chosen([]) == list(ROWS)
    assert matrix.chosen([ROWS[2].name, ROWS[0].name]) == [ROWS[2], ROWS[0]]
    with pytest.raises(Failure, match="there is no row comfyui-9"):
        matrix.chosen(["comfyui-9"])


def test_every_row_has_a_name_of_its_own() -> None:
    assert ROWS[0].name == "comfyui-0.18-torch-2.7-python-3.10"
    assert len({row.name for row in ROWS}) == len(ROWS)
    assert ROWS[-1].name == "comfyui-0.30-torch-2.11-python-3.11-newer-packages"


def test_packages_of_a_row_come_after_those_that_comfyui_names(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    installed: list[str] = []
    for module, name in ((matrix.packages, "make_venv"), (matrix.comfyui, "fetch"), (matrix.ggml_wheel, "install")):
        monkeypatch.setattr(module, name, lambda *_: None)
    monkeypatch.setattr(matrix.packages, "requirements", lambda *_: ["those of ComfyUI"])
    monkeypatch.setattr(matrix.packages, "install", lambda _places, wanted, _log: installed.extend(wanted))
    places.logs.mkdir(parents=True)
    matrix.prepare(places, ROWS[-1], Path(sys.executable))
    assert installed == ["those of ComfyUI", "--no-deps", *matrix.NEWER]
    assert "tests/browser/test_conversion.py" in ROWS[-1].checks
    assert "tests/browser/test_conversion.py" not in ROWS[0].checks


def test_a_python_that_is_not_there_is_told(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    row = Row("0.18", OLD_TORCH, "3.99")
    assert matrix.run_rows(places, [row], [Path(sys.executable), places.root / "python3.99"], keep=False) == 1
    assert "not run: this machine lacks Python 3.99" in capsys.readouterr().out


def test_an_index_out_of_reach_is_told(
    places: Places, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    row = Row("0.18", OLD_TORCH, THIS_PYTHON)
    assert matrix.run_rows(places, [row], [Path(sys.executable)], keep=False) == 1
    said = capsys.readouterr().out
    assert "failed: its packages are not installed" in said
    assert "check that this machine reaches the Python package index" in said
    assert not (places.state / "matrix" / row.name / "venv").exists()


def test_a_named_python_is_taken_before_others() -> None:
    assert matrix.find_python(THIS_PYTHON, [Path(sys.executable)]) == Path(sys.executable)
