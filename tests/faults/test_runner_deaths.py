"""The runner dies, hangs, or loses its parent: what the client makes of it, and that nobody is left behind."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest

from native.client import Runner, RunnerError, RunnerLost
from native.process.child import PACK
from native.program import Program
from tests.runner_toys import NO_WEIGHTS, Table, f32_file, linear, long_program, new_runner

SIZE = 512
LONG = long_program(150, SIZE)
INPUTS = {"x": np.eye(SIZE, dtype="f4") * SIZE}
PATIENCE = 60.0  # seconds for what must happen in the end


@pytest.fixture
def runner() -> Iterator[Runner]:
    runner = new_runner(timeout=60)
    yield runner
    runner.close()


def on_progress(runner: Runner, sign: signal.Signals, times: int = 1) -> Callable[[float], None]:
    """A progress callback that sends a signal to each of the first `times` processes it hears from."""
    met: set[int] = set()

    def progress(_fraction: float) -> None:
        pid = runner.pid
        if pid and pid not in met and len(met) < times:
            met.add(pid)
            os.kill(pid, sign)

    return progress


def test_killed_once_the_run_is_repeated(runner: Runner, tmp_path: Path) -> None:
    weights = f32_file(tmp_path / "w", {"w": np.eye(4, dtype="f4")})
    runner.run(weights, "CPU", linear(4, 4, 1), {"x": np.ones((1, 4), "f4")})
    pids = [runner.pid]
    (found,) = runner.run(NO_WEIGHTS, "CPU", LONG, INPUTS, progress=on_progress(runner, signal.SIGKILL))
    np.testing.assert_allclose(found.reshape(SIZE, SIZE), np.eye(SIZE) * SIZE, rtol=1e-5)
    pids.append(runner.pid)
    assert None not in pids
    assert pids[0] != pids[1]
    (found,) = runner.run(weights, "CPU", linear(4, 4, 1), {"x": np.ones((1, 4), "f4")})  # loaded again by itself
    np.testing.assert_array_equal(found.reshape(-1), np.ones(4))


def test_killed_while_idle_is_not_noticed(runner: Runner) -> None:
    runner.memory()
    assert runner.pid is not None
    os.kill(runner.pid, signal.SIGKILL)
    assert runner.memory().private > 0


def test_killed_while_two_ask_both_are_answered(runner: Runner) -> None:
    runner.memory()
    assert runner.pid is not None
    os.kill(runner.pid, signal.SIGSTOP)
    with ThreadPoolExecutor() as pool:
        answers = [pool.submit(ask) for ask in (runner.memory, runner.devices, runner.memory)]
        time.sleep(0.5)  # until all wait for the one that is stopped
        os.kill(runner.pid, signal.SIGKILL)
        assert all(answer.result(PATIENCE) for answer in answers)


def test_killed_twice_is_an_error_and_the_next_call_works(runner: Runner) -> None:
    with pytest.raises(RunnerLost, match=r"ended twice.*signal 9"):
        runner.run(NO_WEIGHTS, "CPU", LONG, INPUTS, progress=on_progress(runner, signal.SIGKILL, times=2))
    assert runner.run(NO_WEIGHTS, "CPU", doubled(), {"x": np.ones((2, 2), "f4")})[0].sum() == 8


def doubled() -> Program:
    table = Table()
    return table.program(table.op("scale", (2, 2), table.input("x", (2, 2)), with_=(2.0, 0.0)))


def test_an_abort_inside_ggml_is_told_with_its_own_words(runner: Runner) -> None:
    table = Table()
    x = table.input("x", (4, 4))
    half = table.op("cast", (4, 4), x, with_=("F16",), type_="F16")
    brain = table.op("cast", (4, 4), x, with_=("BF16",), type_="BF16")
    mixed = table.op("add", (4, 4), half, brain, type_="F16")  # no kernel for that pair
    program = table.program(table.op("cast", (4, 4), mixed, with_=("F32",)))
    with pytest.raises(RunnerLost, match=r"signal 6(.|\n)*unsupported types"):
        runner.run(NO_WEIGHTS, "CPU", program, {"x": np.ones((4, 4), "f4")})


def test_a_hanging_runner_is_killed_and_the_run_repeated() -> None:
    runner = new_runner(timeout=PATIENCE)
    runner.memory()
    first = runner.pid
    runner.timeout = 10  # seconds, for the process that hangs; the next one may take its time to start
    stop = on_progress(runner, signal.SIGSTOP)

    def progress(fraction: float) -> None:
        stop(fraction)
        runner.timeout = PATIENCE

    (found,) = runner.run(NO_WEIGHTS, "CPU", LONG, INPUTS, progress=progress)
    assert found.any()
    assert runner.pid != first
    runner.close()


CRASHING_DRIVER = """
import os
import ggml
if "GGML_DISABLE_VULKAN" not in os.environ:
    ggml.ggml_backend_dev_count = os.abort
"""


CRASHING_ONCE = """
import os
import ggml
from pathlib import Path
met = Path(__file__).with_name("met")
if not met.exists():
    met.touch()
    ggml.ggml_backend_dev_count = os.abort
"""


def test_a_driver_whose_process_ended_once_is_loaded_again(tmp_path: Path) -> None:
    """The system may have ended it, for want of memory."""
    (tmp_path / "sitecustomize.py").write_text(CRASHING_ONCE)
    runner = new_runner(PYTHONPATH=str(tmp_path))
    assert "Vulkan0" in [device.name for device in runner.devices()]
    assert (tmp_path / "met").exists()
    assert runner.trouble is None
    assert runner.unusable == ()
    runner.close()


def _with_hardly_any_memory(runner: Runner) -> None:
    """Its next process, before it has loaded a driver: there is too little memory for one."""
    runner.close()
    runner.memory()
    assert runner.pid
    held = psutil.Process(runner.pid).memory_info().vms
    resource.prlimit(runner.pid, resource.RLIMIT_AS, (held + (4 << 20), resource.RLIM_INFINITY))


@pytest.mark.parametrize("asks", [False, True], ids=["a run", "a question"])
def test_a_process_without_memory_for_a_driver_is_followed_by_another(runner: Runner, asks: bool) -> None:
    """It finds no device, which stayed so for the storm's next jobs."""
    assert "Vulkan0" in [device.name for device in runner.devices()]
    _with_hardly_any_memory(runner)
    without = runner.pid
    if asks:
        assert "Vulkan0" in [device.name for device in runner.devices()]
    (found,) = runner.run(NO_WEIGHTS, "Vulkan0", doubled(), {"x": np.ones((2, 2), "f4")})
    np.testing.assert_array_equal(found.reshape(-1), np.full(4, 2))
    assert runner.pid != without
    assert runner.unusable == ()


def test_a_device_that_is_gone_is_told_with_what_it_may_be(runner: Runner) -> None:
    """As when the driver is updated meanwhile."""
    runner.devices()
    runner._environment["GGML_DISABLE_VULKAN"] = "1"
    runner.close()
    with pytest.raises(RunnerError, match="no device 'Vulkan0'.* was there before.*memory may be short"):
        runner.run(NO_WEIGHTS, "Vulkan0", doubled(), {"x": np.ones((2, 2), "f4")})
    assert [device.name for device in runner.devices()] == ["CPU"]
    assert "was there before" in " ".join(runner.unusable)


def test_a_driver_that_crashes_while_it_loads_leaves_the_cpu(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "sitecustomize.py").write_text(CRASHING_DRIVER)
    runner = Runner(environment={"PYTHONPATH": str(tmp_path)})
    assert [device.name for device in runner.devices()] == ["CPU"]
    assert runner.trouble is not None
    assert runner.unusable == (runner.trouble,)
    assert "Vulkan is switched off" in caplog.text
    with pytest.raises(RunnerError, match=r"no device 'Vulkan0'.*Vulkan is switched off"):
        runner.run(NO_WEIGHTS, "Vulkan0", doubled(), {"x": np.ones((2, 2), "f4")})
    runner.close()


def test_close_during_a_run_ends_it(runner: Runner) -> None:
    with pytest.raises(RunnerError, match="closed"):
        runner.run(
            NO_WEIGHTS,
            "CPU",
            LONG,
            INPUTS,
            progress=lambda _: threading.Thread(target=runner.close).start(),
        )
    assert runner.pid is None
    assert runner.memory().private > 0


def test_at_the_end_of_its_stdin_it_leaves_a_computation(runner: Runner) -> None:
    process = started_process(runner)
    (found,) = runner.run(NO_WEIGHTS, "CPU", LONG, INPUTS, progress=lambda _: close_once(process))
    assert process.returncode == 0
    assert found.any()  # repeated by the next process
    assert runner.pid != process.pid


def started_process(runner: Runner) -> subprocess.Popen[bytes]:
    runner.memory()
    assert runner._process is not None
    return runner._process._child._process


def close_once(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()


def test_the_thread_that_started_it_may_end(runner: Runner) -> None:
    thread = threading.Thread(target=runner.memory)
    thread.start()
    thread.join()
    pid = runner.pid
    time.sleep(0.2)
    runner.memory()
    assert pid is not None
    assert runner.pid == pid


PARENT = """
import os, subprocess, sys, threading
from tests.runner_toys import NO_WEIGHTS, long_program, new_runner
import numpy as np
runner = new_runner()
runner.memory()
{hold}
def tell(fraction):
    print(runner.pid, flush=True)
if {busy}:
    runner.run(NO_WEIGHTS, "CPU", long_program(1000, 1024), {{"x": np.eye(1024, dtype="f4")}}, progress=tell)
tell(0)
threading.Event().wait()
"""
HOLDER = """
os.set_inheritable(runner._process._child._process.stdin.fileno(), True)
holder = subprocess.Popen(["sleep", "600"], close_fds=False)
print(holder.pid, flush=True)
"""


@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize("pipe_stays_open", [False, True])
def test_it_dies_with_its_parent(busy: bool, pipe_stays_open: bool) -> None:
    """By the end of its stdin, and where some other process holds that open, by the system's signal."""
    script = PARENT.format(busy=busy, hold=HOLDER if pipe_stays_open else "")
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=PACK, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    holder = int(parent.stdout.readline()) if pipe_stays_open else None
    pid = int(parent.stdout.readline())
    assert Path(f"/proc/{pid}").exists()
    parent.kill()
    parent.wait()
    try:
        deadline = time.monotonic() + PATIENCE
        while running(pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not running(pid)
    finally:
        if holder:
            os.kill(holder, signal.SIGKILL)
        parent.stdout.close()


def running(pid: int) -> bool:
    """Whether the process exists and is more than a zombie that nobody has collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_restarts_leave_nothing_open(runner: Runner) -> None:
    runner.memory()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(4):
        assert runner.pid is not None
        os.kill(runner.pid, signal.SIGKILL)
        runner.memory()
    assert len(os.listdir("/proc/self/fd")) <= before
    runner.close()
    assert len(os.listdir("/proc/self/fd")) < before


def test_what_others_print_does_not_reach_the_protocol() -> None:
    code = (
        "import os\nfrom native.process.startup import take_pipes\nincoming, outgoing = take_pipes()\n"
        "os.write(1, b'noise')\nprint('more', flush=True)\noutgoing.write(incoming.read())\noutgoing.flush()\n"
        "assert os.read(0, 1) == b''"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PACK, input=b"frame", capture_output=True, check=True)
    assert done.stdout == b"frame"
    assert b"noise" in done.stderr
    assert b"more" in done.stderr
