"""The card check from its start to its report: what is checked, in which order, and what when the time is up."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from time import monotonic

from ..client import Runner
from ..errors import RunnerError
from ..ggml_build import build_words
from ..placement import CPU
from ..wire.messages import Device
from .blocks import LARGE, NARROW, REAL, Block, blocks
from .memory import CHECK as MEMORY
from .memory import check_memory
from .peaks import published_peak
from .rates import Sizes, measure, measure_block, measure_upload
from .report import CardReport, Finding, Rate, Verdict
from .results import START, Reference, check_operations, check_start, check_whole
from .trial import Clock, Stopped, Trial

QUICK_SECONDS, FULL_SECONDS = 55.0, 465.0  # a minute, and 8, with what comes before and after
USUAL = "as it is"
_OFF = {"GGML_VK_DISABLE_F16": "1"}  # which takes matrix cores with it
_MATRIX_CORES_OFF = {"GGML_VK_DISABLE_COOPMAT": "1", "GGML_VK_DISABLE_COOPMAT2": "1"}
_DOT_OFF = {"GGML_VK_DISABLE_INTEGER_DOT_PRODUCT": "1"}
SETTINGS: dict[str, dict[str, str]] = {
    USUAL: {},
    "without fp16": _OFF,
    "without matrix cores": _MATRIX_CORES_OFF,
    "without integer dot": _DOT_OFF,
    "as an RX 580 (without all three)": {**_OFF, **_MATRIX_CORES_OFF, **_DOT_OFF},
}
_FEATURES = {"without fp16": "fp16", "without matrix cores": "matrix cores", "without integer dot": "int dot"}
_GIVES_UP = 2  # processes that died or hung; after these nothing more is tried
_FOR_SPEED = 0.3  # of the time is kept for the speeds
_ENDS = (Verdict.DIED, Verdict.HUNG)


@dataclass(frozen=True)
class CardOptions:
    """How much is checked. seconds: for all of it; limit: that one run may take without a sign of progress.

    full: also rates under other settings of the driver, and blocks at their usual number of tokens.
    narrow: small blocks and sizes, for devices that compute on the processor; None: where the device is one.
    environment: of the processes that the driver is in. memory: bytes to fill at most. models: names of blocks; all.
    """

    device: str
    full: bool = False
    seconds: float = QUICK_SECONDS
    limit: float = 30.0
    narrow: bool | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    memory: int | None = None
    models: tuple[str, ...] = ()
    threads: int = 0
    rates: bool = True


@dataclass(frozen=True)
class Watch:
    """Who looks on: asked whether to end, told the share that is done and what comes next."""

    interrupted: Callable[[], bool] = lambda: False
    progress: Callable[[float, str], None] = lambda _done, _next: None


def check_card(options: CardOptions, watch: Watch | None = None) -> CardReport:
    """Check a device; whatever its driver does, the report says it. Raises Interrupted."""
    watch = watch or Watch()
    began = monotonic()
    clock = Clock(began + options.seconds, options.limit, watch.interrupted)
    with tempfile.TemporaryDirectory(prefix="ggml-card-", ignore_cleanup_errors=True) as folder:
        check = _Check(options, watch, clock, Path(folder))
        check.run()
    return replace(check.report, seconds=monotonic() - began)


class _Check:
    """One check under way, and its report so far."""

    def __init__(self, options: CardOptions, watch: Watch, clock: Clock, folder: Path) -> None:
        self._options, self._watch, self._clock, self._folder = options, watch, clock, folder
        self._ended = 0  # processes
        self.report = CardReport(
            Device(options.device, "", "", 0, 0, 0, ()),
            f"{platform.system()} {platform.release()}, {platform.machine()}",
            {"ggml": build_words()[0], "Python": platform.python_version()},
            datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        )

    def run(self) -> None:
        """All there is time for; raises Interrupted."""
        with self._trial(self._options.device, {}) as card, self._trial(CPU, {}) as processor:
            self._tell("the driver")
            try:
                device = card.described()
            except Stopped as error:
                self._note(Finding(START, error.verdict, str(error)))
                return
            peak = published_peak(device.description)
            self.report = replace(self.report, device=device, peak=peak, settings=(USUAL,))
            narrow = "software" in device.features if self._options.narrow is None else self._options.narrow
            models = [each for each in blocks() if not self._options.models or each.name in self._options.models]
            ends, self._clock.ends = self._clock.ends, self._clock.ends - _FOR_SPEED * self._options.seconds
            reference = Reference(processor)
            self._check_results(card, reference, models, NARROW if narrow else REAL)
            self._clock.ends = ends
            if self._options.rates:
                self._measure(card, models, USUAL, narrow)
            if self._options.full and not self.report.faults:
                for setting in settings_of(device):
                    self._check_setting(setting, reference, models, narrow)

    def _check_results(self, card: Trial, reference: Reference, models: Sequence[Block], size: str) -> None:
        self._check(START, partial(check_start, card))
        if self.report.findings[-1].verdict in _ENDS:
            self._ended = _GIVES_UP
        self._check(MEMORY, partial(check_memory, card, self.report.device, self._options.memory))
        for block in models:
            self._check(f"operations of {block.name}", partial(check_operations, card, reference, block, size))
            whole = f"block of {block.name}"
            if self.report.findings[-1].verdict is Verdict.WRONG:
                self._note(Finding(whole, Verdict.LEFT_OUT, "as its operations are wrong"))
            else:
                self._check(whole, partial(check_whole, card, reference, block, size))

    def _check_setting(self, setting: str, reference: Reference, models: Sequence[Block], narrow: bool) -> None:
        """Speeds, and then the operations again, under another setting of the driver."""
        self.report = replace(self.report, settings=(*self.report.settings, setting))
        with self._trial(self._options.device, SETTINGS[setting]) as card:
            self._measure(card, models, setting, narrow)
            for block in models:
                check = f"operations of {block.name}, {setting}"
                size = NARROW if narrow else REAL
                self._check(check, partial(_renamed, check, partial(check_operations, card, reference, block, size)))

    def _check(self, check: str, function: Callable[[], Finding]) -> None:
        """Note a check's finding; nothing is tried any more where the driver ended too many processes."""
        if self._ended >= _GIVES_UP:
            self._note(Finding(check, Verdict.LEFT_OUT, "as the driver ended or held up what came before"))
            return
        self._tell(check)
        try:
            self._note(function())
        except Stopped as error:
            self._note(Finding(check, error.verdict, str(error)))

    def _measure(self, card: Trial, models: Sequence[Block], setting: str, narrow: bool) -> None:
        """Note the speeds under a setting, of one block where there is little time."""
        if self._ended:
            return
        sizes = Sizes.small() if narrow else Sizes()
        try:
            for rate in self._rates(card, models if self._options.full else models[:1], setting, sizes):
                self.report = replace(self.report, rates=(*self.report.rates, rate))
                self._tell(f"speed, {setting}")
        except Stopped as error:
            self._note(Finding(f"speed, {setting}", error.verdict, str(error)))

    def _rates(self, card: Trial, models: Sequence[Block], setting: str, sizes: Sizes) -> Iterator[Rate]:
        yield from measure(card, setting, sizes)
        yield measure_upload(card, setting, sizes)
        for block in models:
            yield measure_block(card, block.work(LARGE if sizes == Sizes() else NARROW), setting)

    def _note(self, finding: Finding) -> None:
        self._ended += finding.verdict in _ENDS
        self.report = replace(self.report, findings=(*self.report.findings, finding))

    def _tell(self, what: str) -> None:
        """Show the share of the time that is over, and what comes next."""
        self._watch.progress(min(1.0, max(0.0, 1.0 - self._clock.left / max(self._options.seconds, 1e-3))), what)

    @contextmanager
    def _trial(self, device: str, setting: Mapping[str, str]) -> Iterator[Trial]:
        environment = {**setting, **(self._options.environment if device != CPU else {})}
        threads = ("--threads", str(self._options.threads)) if self._options.threads else ()
        trial = Trial(device, self._folder, self._clock, environment, threads)
        try:
            yield trial
        finally:
            trial.close()


def _renamed(check: str, function: Callable[[], Finding]) -> Finding:
    return replace(function(), check=check)


def settings_of(device: Device) -> list[str]:
    """The settings besides the usual one that change anything on a device."""
    lacking = {
        setting
        for setting, feature in _FEATURES.items()
        if not any(each.startswith(feature) for each in device.features)
    }
    others = [setting for setting in list(SETTINGS)[1:] if setting not in lacking]
    return others if len(others) > 2 else others[:-1]  # one alone, or none: all three together are the same


def checked_device(environment: Mapping[str, str] | None = None) -> str:
    """The device that is checked where none is named: the first GPU. Raises RunnerError where there is none."""
    runner = Runner((), environment, attempts=1)
    try:
        found = runner.devices()
    finally:
        runner.close()
    card = next((each for each in found if each.type in ("GPU", "IGPU")), None)
    if card is None:
        raise RunnerError(f"There is no GPU to check. ggml is {build_words()[0]}")
    return card.name
