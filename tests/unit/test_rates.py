"""Rates of devices, the work of programs, and the seconds of plans: their structure, whatever the machine takes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from native.placement import TORCH, Placement
from native.planning import Machine, Part, Plan, plan_of
from native.planning.profiles import ProfileError, known_profiles, profile_of
from native.planning.rates import PUBLISHED, Rates, published_rates
from native.planning.rates_file import RatesKey, read_rates, write_rates
from native.planning.report import plan_json, report
from native.planning.seconds import about
from native.planning.work import work_of
from native.weights import WeightSet
from native.wire.messages import DryRun, DryRunStep, ExternalModel, ModelMemory, Step
from tests.bench import roofline
from tests.runner_toys import Table, linear

CURVES = {"mul_mat F32": ((1.0, 1e9), (100.0, 1e11)), "add": ((1.0, 1e10),), "mul_mat Q4_K": ((1.0, 5e9),),
          "mul_mat Q4_K repacked": ((1.0, 1e10),)}  # fmt: skip
RATES = Rates(CURVES, memory=1e10, launch=1e-6, call=1e-6, upload=1e9, repack=5e8, element=1e-12, torch=Rates(
    {"mul_mat F32": ((1.0, 1e12),), "add": ((1.0, 1e12),)}, 1e12, 0.0, 0.0, 1e9))  # fmt: skip
KEY = RatesKey("Card", "driver 1", "0.0.45", 0)
WEIGHTS, PROCESSOR = WeightSet("toy", {}, ()), Placement("CPU")


def model(**more: int) -> ModelMemory:
    names = (
        "budget",
        "mapped",
        "copied",
        "repacked",
        "streamed",
        "staging",
        "buffers",
        "arrays",
        "constants",
        "compute",
    )
    return ModelMemory("toy", WEIGHTS.digest, "CPU", files_digest="f", work=0, **(dict.fromkeys(names, 0) | more))


def plan(*times: int, rates: Rates | None = RATES, placement: Placement = PROCESSOR, **held: int) -> Plan:
    """A plan of a node for each number of times that it runs a program."""
    step = Step("run", WEIGHTS, placement, linear(256, 256, 50))
    done = DryRunStep({"CPU": 0}, {"CPU": 0}, (model(**held),), False, None)
    steps = [(step, Part(str(number), "Working", times=each)) for number, each in enumerate(times)]
    machine = Machine((), {"CPU": 1}, rates={} if rates is None else {"CPU": rates})
    return plan_of(machine, steps, {}, DryRun((done,) * len(times)))


def test_work_is_counted_by_kind_type_and_columns() -> None:
    (((kind, size, operations, nbytes, elements), count),) = work_of(linear(64, 32, 7, "F16"))
    assert (kind, size, operations, count) == ("mul_mat F16", 7.0, 2.0 * 64 * 32 * 7, 1)
    assert elements == 64 * 7
    assert nbytes == 2 * 64 * 32 + 4 * 7 * (64 + 32)


def test_a_turned_copy_is_told_from_a_plain_one() -> None:
    table = Table()
    x = table.input("x", (8, 16))
    turned = table.op("permute", (16, 8), x, with_=(1, 0, 2, 3))
    copied = table.op("cont", (16, 8), turned)
    plain = table.op("cont", (8, 16), x)
    assert {work.kind for work, _ in work_of(table.program(copied, plain))} == {"transpose", "cont"}


def test_rates_lie_between_those_that_were_measured() -> None:
    assert RATES.rate("mul_mat F32", 10) == pytest.approx(1e10)
    assert RATES.rate("mul_mat F32", 0.5) == 1e9
    assert RATES.rate("mul_mat F32", 1e6) == 1e11
    assert RATES.rate("mul_mat IQ1_S", 1) == 5e9  # as the slowest type that was measured
    assert RATES.rate("mul_mat Q4_K", 1, repacked=True) == 1e10
    assert RATES.rate("mul_mat F32", 10, repacked=True) == pytest.approx(1e10)


def test_seconds_grow_with_the_times_and_phases_add_up() -> None:
    once, ten = plan(1), plan(10)
    assert once.seconds == pytest.approx(RATES.seconds(linear(256, 256, 50)))
    assert ten.seconds == pytest.approx(10 * once.seconds)
    both = plan(1, 10)
    assert both.seconds == pytest.approx(once.seconds + ten.seconds)
    assert both.seconds == pytest.approx(sum(phase.seconds for phase in both.phases))


def test_a_slower_device_takes_longer() -> None:
    slower = replace(RATES, curves={kind: tuple((s, r / 4) for s, r in c) for kind, c in CURVES.items()}, memory=2.5e9)
    assert plan(1, rates=slower).seconds > 2 * plan(1).seconds
    assert plan(1, placement=Placement("CPU", engine=TORCH)).seconds < plan(1).seconds / 10


def test_weights_come_once_and_streamed_ones_each_time() -> None:
    assert plan(2, copied=10**9).seconds == pytest.approx(1.0 + plan(2).seconds)
    assert plan(1, 1, copied=10**9).seconds == pytest.approx(1.0 + plan(1, 1).seconds)
    assert plan(1, repacked=10**9).seconds == pytest.approx(2.0 + plan(1).seconds)
    assert plan(3, streamed=10**9).seconds == pytest.approx(3.0)  # beside what computes, which is quicker


def test_what_is_not_known_is_said() -> None:
    for unknown in (plan(1, rates=None), plan(1, 0)):
        assert unknown.seconds is None
        assert plan_json(unknown)["seconds"] is None
    assert "How long it takes is not measured on CPU" in report(plan(1, rates=None))
    assert "It takes less than 1 s" in report(plan(1))
    published = report(plan(10**5, rates=published_rates(1e12, 1e11)))
    assert "by the published rates of CPU: not measured" in published
    other = ExternalModel("a language model", {"CPU": {"weights": 1}}, False)
    done = DryRunStep({"CPU": 0}, {"CPU": 0}, (), True, None)
    machine = Machine((), {"CPU": 1}, rates={"CPU": RATES})
    assert plan_of(machine, [(other, Part("1", "Writing"))], {}, DryRun((done,))).seconds is None


def test_words_are_as_exact_as_what_is_known() -> None:
    said = {0.2: "less than 1 s", 3.4: "about 3 s", 42: "about 40 s", 58: "about 60 s", 190: "about 3 min",
            1400: "about 25 min", 9000: "about 2.5 h"}  # fmt: skip
    assert {seconds: about(seconds) for seconds in said} == said


def test_rates_are_kept_and_a_damaged_file_only_loses_them(tmp_path: Path) -> None:
    path = tmp_path / "ggml_rates.json"
    measured = replace(RATES, date="2026-11-30")
    write_rates(path, KEY, measured)
    write_rates(path, replace(KEY, driver="driver 2"), measured)
    assert read_rates(path) == {KEY: measured, replace(KEY, driver="driver 2"): measured}
    whole = path.read_text(encoding="utf-8")
    held = json.loads(whole)
    held["devices"][0]["rates"]["memory"] = -1
    for damaged in (whole[: len(whole) // 2], "[]", '{"format": 1, "devices": 3}', '{"format": 2, "devices": []}', ""):
        path.write_text(damaged, encoding="utf-8")
        assert read_rates(path) == {}
    path.write_text(json.dumps(held), encoding="utf-8")
    assert list(read_rates(path)) == [replace(KEY, driver="driver 2")]
    assert read_rates(tmp_path / "none.json") == {}


def test_cards_of_the_table_have_published_rates() -> None:
    for profile in known_profiles().values():
        assert profile.rates["Vulkan0"].source == PUBLISHED
    slow, quick = (known_profiles()[name].rates["Vulkan0"] for name in ("RX 570 4 GB, Linux", "Arc A750 8 GB, Linux"))
    assert slow.seconds(linear(2048, 2048, 512)) > 2 * quick.seconds(linear(2048, 2048, 512))
    gpu = {"description": "x", "memory": 1024}
    described = {"name": "x", "system": "linux", "ram": 8192, "gpus": [gpu]}
    assert profile_of(described).rates == {}
    with pytest.raises(ProfileError, match="numbers above 0"):
        profile_of({**described, "gpus": [{**gpu, "tflops": "fast", "bandwidth": 1}]})


def test_the_table_of_cards_is_what_plans_tell() -> None:
    """`python -m tests.bench.roofline` makes it anew."""
    table = (
        roofline.PAGE.read_text(encoding="utf-8").partition(roofline.BEGIN)[2].partition(roofline.END)[0].splitlines()
    )
    assert table[:2] == roofline.heading()
    assert [line.partition(",")[0] for line in table[2:]] == [f"| {name}" for name in roofline.NAMES]
    assert roofline.row("SD1.5") in table
    assert roofline.peak("RX 580").seconds(linear(2048, 2048, 512)) == 2 * 2048**2 * 512 / 6.17e12
