"""Interrupting a run, and several threads at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from time import monotonic, sleep

import numpy as np
import pytest

from native.client import Interrupted, Runner
from native.program import Program
from tests.runner_toys import DEVICES, NO_WEIGHTS, Table, long_program, new_runner

SIZE = 512
INPUTS = {"x": np.eye(SIZE, dtype="f4")}


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    runner = new_runner()
    yield runner
    runner.close()


def doubled(shape: tuple[int, ...]) -> Program:
    table = Table()
    return table.program(table.op("scale", shape, table.input("x", shape), with_=(2.0, 0.0)))


@pytest.mark.parametrize("device", DEVICES)
def test_an_interrupt_ends_a_run_early_and_the_runner_lives(runner: Runner, device: str) -> None:
    runner.run(NO_WEIGHTS, device, doubled((4,)), {"x": np.ones(4, "f4")})
    pid = runner.pid
    fractions: list[float] = []
    with pytest.raises(Interrupted):
        runner.run(
            NO_WEIGHTS,
            device,
            long_program(600, 256),
            {"x": np.eye(256, dtype="f4")},
            interrupted=lambda: bool(fractions),
            progress=fractions.append,
        )
    assert fractions
    assert max(fractions) < 0.9
    (found,) = runner.run(NO_WEIGHTS, device, doubled((4,)), {"x": np.ones(4, "f4")})
    np.testing.assert_array_equal(found.reshape(-1), np.full(4, 2.0))
    assert runner.pid == pid


def test_on_the_cpu_an_interrupt_is_honoured_inside_a_segment(runner: Runner) -> None:
    table = Table()
    y = table.input("x", (SIZE, SIZE))
    for _ in range(4000):  # all in one segment
        y = table.op("sin", (SIZE, SIZE), y)
    fractions: list[float] = []
    program = table.program(y)
    runner.run(NO_WEIGHTS, "CPU", program, INPUTS)  # built, so that the next one is interrupted while it computes
    with pytest.raises(Interrupted):
        runner.run(NO_WEIGHTS, "CPU", program, INPUTS, interrupted=lambda: True, progress=fractions.append)
    assert fractions == []


def test_an_interrupt_that_comes_when_all_is_done_is_one(runner: Runner) -> None:
    """And is not waited for: the runner has nothing more to say of it."""
    program = long_program(300, SIZE)
    runner.run(NO_WEIGHTS, "CPU", program, INPUTS)
    started = monotonic()
    runner.run(NO_WEIGHTS, "CPU", program, INPUTS)
    seconds, pid = monotonic() - started, runner.pid

    def too_late() -> bool:
        sleep(seconds + 2)
        return True

    with pytest.raises(Interrupted):
        runner.run(NO_WEIGHTS, "CPU", program, INPUTS, interrupted=too_late)
    runner.run(NO_WEIGHTS, "CPU", doubled((4,)), {"x": np.ones(4, "f4")})
    assert runner.pid == pid


def test_progress_rises_to_one(runner: Runner) -> None:
    fractions: list[float] = []
    runner.run(NO_WEIGHTS, "CPU", long_program(100, SIZE), INPUTS, progress=fractions.append)
    assert fractions == sorted(fractions)
    assert len(fractions) > 1
    assert fractions[-1] == 1.0


def test_what_a_callback_raises_comes_out_and_the_runner_is_idle_after(runner: Runner) -> None:
    def stop(_fraction: float) -> None:
        raise KeyError("stop")

    with pytest.raises(KeyError):
        runner.run(NO_WEIGHTS, "CPU", long_program(400, SIZE), INPUTS, progress=stop)
    # were the first run still going on, its result would land where these inputs lie
    array = np.full((SIZE, SIZE), 3.0, "f4")
    (found,) = runner.run(NO_WEIGHTS, "CPU", doubled((SIZE, SIZE)), {"x": array})
    np.testing.assert_array_equal(found.reshape(SIZE, SIZE), 2 * array)


def test_questions_are_answered_while_a_run_works(runner: Runner) -> None:
    answers: list[int] = []
    fractions: list[float] = []

    def ask(fraction: float) -> None:
        if not fractions:
            thread = threading.Thread(
                target=lambda: answers.append(len(runner.devices()) + len(runner.memory().models))
            )
            thread.start()
            thread.join()
        fractions.append(fraction)

    with pytest.raises(Interrupted):
        runner.run(
            NO_WEIGHTS,
            "CPU",
            long_program(1000, 2 * SIZE),
            {"x": np.eye(2 * SIZE, dtype="f4")},
            interrupted=lambda: bool(answers),
            progress=ask,
        )
    assert len(answers) == 1
    assert max(fractions) < 0.9  # the run was far from its end when both were answered


def test_many_threads_get_their_own_results(runner: Runner) -> None:
    results: dict[int, np.ndarray] = {}
    programs = {size: doubled((size,)) for size in range(1, 5)}

    def work(number: int) -> None:
        for turn in range(10):
            size = 1 + (number + turn) % 4
            (found,) = runner.run(NO_WEIGHTS, "CPU", programs[size], {"x": np.full(size, number, "f4")})
            assert found.size == size
            results[number] = found

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {number: found.max() for number, found in results.items()} == {number: 2.0 * number for number in range(8)}
