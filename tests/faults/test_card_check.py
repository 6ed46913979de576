"""The card check: right on lavapipe, finds planted faults of a driver, ends when it is interrupted."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from native.card import CardOptions, CardReport, Verdict, Watch, check_card, to_json, to_page
from native.errors import Interrupted
from tools import places, vulkan

ROOT = Path(__file__).parents[2]
SOFTWARE = {
    name: os.environ.get(name, value) for name, value in vulkan.software_environment(places.here()).items()
}  # fmt: skip
MODEL = "Wan 2.2 5B"  # its block is the quickest
OPERATIONS = f"operations of {MODEL}"
WRONG, DIED, HUNG, REFUSED, RIGHT = Verdict.WRONG, Verdict.DIED, Verdict.HUNG, Verdict.REFUSED, Verdict.RIGHT
FAULTS: dict[str, tuple[dict[str, Verdict], str]] = {  # what must be found, and what the page must say
    "zeros": ({OPERATIONS: WRONG, "memory": WRONG}, "are 0 instead"),
    "skips": ({OPERATIONS: WRONG}, "of its values are wrong"),
    "shortens": ({OPERATIONS: WRONG}, "of its values are wrong"),
    "miscompiles": ({OPERATIONS: WRONG, "memory": RIGHT}, "soft_max of"),
    "corrupts": ({OPERATIONS: WRONG, "memory": WRONG}, "of its values are wrong"),
    "NaN": ({OPERATIONS: WRONG}, "infinite or not a number"),
    "drops": ({OPERATIONS: WRONG}, "of its values are wrong"),
    "shares": ({"memory": WRONG}, "do not hold what"),
    "refuses": ({"memory": REFUSED, OPERATIONS: RIGHT}, "it gives only 16 MiB of"),
    "hangs": ({"start": HUNG}, "no sign of progress for 8 seconds"),
    "loses": ({OPERATIONS: DIED}, "ErrorDeviceLost"),
    "crashes": ({OPERATIONS: DIED}, "signal 11"),
    "crashes at once": ({"start": DIED}, "signal 11"),
    "refuses to start": ({"start": DIED}, "ErrorInitializationFailed"),
    "hides": ({"start": REFUSED}, "there is no device Vulkan0"),
}
TURNS = 3


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Mapping[str, str]]:
    """planted(fault): the environment of a process whose driver has it."""
    compiler = shutil.which("cc")
    if compiler is None or not SOFTWARE:
        pytest.skip("needs a C compiler, and no GPU")
    library = tmp_path_factory.mktemp("driver") / "faults.so"
    source = ROOT / "tests" / "planted_faults.c"
    subprocess.run([compiler, "-Wall", "-O1", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return lambda fault: SOFTWARE | {"LD_PRELOAD": str(library), "PLANTED_FAULT": fault}


def check(environment: Mapping[str, str], limit: float, watch: Watch | None = None) -> CardReport:
    options = CardOptions(
        "Vulkan0", seconds=150, limit=limit, models=(MODEL,), environment=environment, threads=2, rates=False
    )
    return check_card(options, watch)


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_fault_is_found(
    fault: str, planted: Callable[[str], Mapping[str, str]], request: pytest.FixtureRequest
) -> None:
    """A third of them at each run, all with --all."""
    turn = list(FAULTS).index(fault) % TURNS == request.config.getoption("--sample") % TURNS
    if not turn and not request.config.getoption("--all"):
        pytest.skip("another day's turn")
    expected, said = FAULTS[fault]
    report = check(planted(fault), 8 if fault == "hangs" else 120)
    found = {finding.check: finding.verdict for finding in report.findings}
    assert {name: found.get(name) for name in expected} == expected
    assert said in to_page(report)
    assert report.faults
    if fault == "miscompiles":  # what has no `exp` in it is right
        wrong = [text.split(" of ")[0] for finding in report.findings for text in finding.wrong]
        assert set(wrong) <= {"soft_max", "flash_attn", "silu", "gelu"}


def test_interrupted_while_the_driver_hangs(planted: Callable[[str], Mapping[str, str]]) -> None:
    began = time.monotonic()
    watch = Watch(interrupted=lambda: time.monotonic() - began > 3)
    with pytest.raises(Interrupted):
        check(planted("hangs"), 60, watch)
    assert time.monotonic() - began < 30


def test_slow_is_not_hung(planted: Callable[[str], Mapping[str, str]]) -> None:
    """Where the whole time is up before the limit of one run, nobody knows."""
    options = CardOptions("Vulkan0", seconds=6, limit=60, environment=planted("hangs"), threads=2)
    report = check_card(options)
    assert not report.faults
    assert {finding.verdict for finding in report.findings} == {Verdict.LEFT_OUT}


def test_time_that_is_up_leaves_the_rest_out() -> None:
    report = check_card(CardOptions("CPU", narrow=True, seconds=0.0))
    assert [finding.verdict for finding in report.findings] == [Verdict.LEFT_OUT]
    assert report.summary() == "No fault was found. Not checked: start."


def test_no_fault_without_one() -> None:
    """All blocks on the CPU beside the CPU, and one on lavapipe with all rates, from a Python without torch."""
    report = check_card(CardOptions("CPU", narrow=True, threads=2, memory=16 << 20, seconds=200, rates=False))
    assert {finding.verdict for finding in report.findings} == {RIGHT}
    assert len(report.findings) == 2 + 2 * 4
    software = SOFTWARE or {"GGML_VK_VISIBLE_DEVICES": "0"}
    options = CardOptions("Vulkan0", narrow=True, models=(MODEL,), environment=software, threads=2, seconds=400,
                          memory=16 << 20, limit=120)  # fmt: skip
    report = check_card(options)
    assert {finding.verdict for finding in report.findings} == {RIGHT}, to_page(report)
    names = [rate.name for rate in report.rates]
    assert {"product Q4_K", "attention", "convolution 3x3", "addition", f"block of {MODEL}"} <= set(names)
    assert all(rate.per_second > 0 for rate in report.rates)
    found = json.loads(to_json(report))
    assert found["summary"] == "No fault was found."
    assert found["findings"][0] == {"check": "start", "verdict": "right", "text": "one addition", "wrong": []}


def test_it_needs_neither_torch_nor_comfyui() -> None:
    code = (
        "import native.card, native.card.__main__, sys; sys.exit(bool({'torch', 'comfy', 'ggml'} & set(sys.modules)))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "COMFYUI_PATH"}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, env=environment)
