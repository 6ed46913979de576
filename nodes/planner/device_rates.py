"""The speed of this machine's devices: read from the user's folder, and measured while ComfyUI has nothing to do."""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import monotonic

import folder_paths
from server import PromptServer

from ...native.client import Device, Interrupted, RunnerError, another
from ...native.engines.rate_measurement import measure
from ...native.ggml_build import installed_version
from ...native.lru import LRU
from ...native.placement import CPU
from ...native.planning.rates import Rates
from ...native.planning.rates_file import RatesKey, read_rates, write_rates
from ...native.threads import wanted_threads

log = logging.getLogger(__name__)
IDLE = 30.0  # seconds without a plan or a prompt before a measurement begins
_POLL = 1.0  # seconds
_MEASURED = ("CPU", "GPU", "IGPU")  # types of devices
_SWITCH = "GGML_IDLE_MEASUREMENT"  # an environment variable; 0: nothing is measured
_read: LRU[tuple[Path, int], dict[RatesKey, Rates]] = LRU(1)


def rates_path() -> Path:
    """The file of what was measured here."""
    return Path(folder_paths.get_user_directory()) / "ggml_rates.json"


def key_of(device: Device) -> RatesKey:
    """The key under which a device's rates are kept."""
    threads = (wanted_threads() or 0) if device.type == CPU else 0
    return RatesKey(device.description, device.driver, installed_version(), threads)


def rates_of(devices: Sequence[Device]) -> dict[str, Rates]:
    """The rates of the devices that were measured, by name."""
    path = rates_path()
    try:
        stamp = path.stat().st_mtime_ns
    except OSError:
        return {}
    known = _read.get((path, stamp))
    if known is None:
        known = _read.put((path, stamp), read_rates(path))
    return {device.name: known[key_of(device)] for device in devices if key_of(device) in known}


def measure_when_idle(devices: Sequence[Device], known: Mapping[str, Rates]) -> None:
    """Have the devices that were not measured yet measured once nobody waits for anything."""
    if os.environ.get(_SWITCH) != "0":
        wanted = [each for each in devices if each.type in _MEASURED and "software" not in each.features]
        _measurement.ask([each for each in wanted if each.name not in known])


class _Measurement:
    """A thread that measures devices, one after the other, and gives way to whatever ComfyUI does."""

    def __init__(self) -> None:
        self._wanted: dict[RatesKey, Device] = {}
        self._tried: set[RatesKey] = set()
        self._asked = 0.0
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def ask(self, devices: Sequence[Device]) -> None:
        """Measure these when there is time; a device whose measurement failed is not tried again."""
        with self._lock:
            self._asked = monotonic()
            self._wanted = {key_of(each): each for each in devices if key_of(each) not in self._tried}
            if self._wanted and self._thread is None and hasattr(PromptServer, "instance"):
                self._thread = threading.Thread(target=self._run, name="measure devices", daemon=True)
                self._thread.start()
                atexit.register(self._end)

    def _run(self) -> None:
        while not self._ending.wait(_POLL):
            with self._lock:
                wanted = next(iter(self._wanted.items()), None)
                if wanted is None:
                    self._thread = None
                    return
            if not self._busy():
                self._measure(*wanted)

    def _measure(self, key: RatesKey, device: Device) -> None:
        mark = rates_path().with_suffix(f".{device.name}.trying")  # stays where a driver takes the machine down
        if mark.is_file() and mark.read_text(encoding="utf-8") == repr(key):
            self._done(key)
            return
        runner = another()
        try:
            mark.write_text(repr(key), encoding="utf-8")
            write_rates(rates_path(), key, measure(runner, device, lambda: self._ending.is_set() or self._busy()))
            log.info("%s (%s) was measured: plans tell seconds now.", device.name, device.description)
        except Interrupted:
            return
        except (RunnerError, OSError) as error:
            log.info("%s could not be measured, so plans tell no seconds there: %s", device.name, error)
        finally:
            runner.close()
            mark.unlink(missing_ok=True)
        self._done(key)

    def _done(self, key: RatesKey) -> None:
        with self._lock:
            self._tried.add(key)
            self._wanted.pop(key, None)

    def _busy(self) -> bool:
        """Whether anybody planned or computed something lately."""
        running, pending = PromptServer.instance.prompt_queue.get_current_queue_volatile()
        if running or pending:
            self._asked = monotonic()
        return monotonic() - self._asked < IDLE

    def _end(self) -> None:
        self._ending.set()
        if self._thread:
            self._thread.join(5)


_measurement = _Measurement()
