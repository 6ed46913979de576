"""The card check from its start to its report: what is checked, in which order, and what when the time is up."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
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
from .results import Reference, check_operations, check_whole
from .trial import Clock, Stopped, Trial

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
    seconds: float = 55.0
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
    builds = {"ggml": build_words()[0], "python": platform.python_version()}
    nameless = Device(options.device, "", "", 0, 0, 0, ())
    now = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    report = CardReport(nameless, f"{platform.system()} {platform.release()}, {platform.machine()}", builds, now)
    with tempfile.TemporaryDirectory(prefix="ggml-card-", ignore_cleanup_errors=True) as folder:
        for report in _Check(options, watch, clock, Path(folder)).reports(report):
            watch.progress(min(1.0, (monotonic() - began) / options.seconds), "")
    return replace(report, seconds=monotonic() - began)


class _Check:
    """One check under way. Its processes are `reference`, on the processor, and `card`."""

    def __init__(self, options: CardOptions, watch: Watch, clock: Clock, folder: Path) -> None:
        self._options, self._watch, self._clock, self._folder = options, watch, clock, folder
        self._threads = ("--threads", str(options.threads)) if options.threads else ()
        self._ended = 0  # processes

    def reports(self, report: CardReport) -> Iterator[CardReport]:
        """The report, each with one finding or rate more; raises Interrupted."""
        with self._trial(self._options.device, {}) as card, self._trial(CPU, {}) as processor:
            self._watch.progress(0.0, "the driver")
            try:
                device = card.described()
            except Stopped as error:
                yield self._with(report, Finding("start", error.verdict, str(error)))
                return
            report = replace(report, device=device, peak=published_peak(device.description), settings=(USUAL,))
            yield report
            narrow = "software" in device.features if self._options.narrow is None else self._options.narrow
            models = [each for each in blocks() if not self._options.models or each.name in self._options.models]
            for report in self._results(report, card, Reference(processor), models, NARROW if narrow else REAL):
                yield report
            sizes = Sizes.small() if narrow else Sizes()
            if self._options.rates:
                for report in self._rates(report, card, models, USUAL, sizes):
                    yield report
        if self._options.full and not report.faults:
            for setting in list(SETTINGS)[1:]:
                with self._trial(self._options.device, SETTINGS[setting]) as card:
                    report = replace(report, settings=(*report.settings, setting))
                    for report in self._rates(report, card, models, setting, sizes):
                        yield report

    def _results(
        self, report: CardReport, card: Trial, reference: Reference, models: list[Block], size: str
    ) -> Iterator[CardReport]:
        report = self._with(report, self._checked(MEMORY, lambda: check_memory(card, report.device, self._options.memory)))
        yield report
        for block in models:
            check = f"operations of {block.name}"
            report = self._with(report, self._checked(check, lambda: check_operations(card, reference, block, size)))
            yield report
            check = f"block of {block.name}"
            report = self._with(report, self._checked(check, lambda: check_whole(card, reference, block, size)))
            yield report

    def _rates(
        self, report: CardReport, card: Trial, models: list[Block], setting: str, sizes: Sizes
    ) -> Iterator[CardReport]:
        if self._ended:
            return
        self._watch.progress(self._done, f"speed, {setting}")
        size = LARGE if sizes == Sizes() else NARROW
        try:
            for rate in measure(card, setting, sizes):
                report = _with_rate(report, rate)
                yield report
            report = _with_rate(report, measure_upload(card, setting, sizes))
            yield report
            for block in models if self._options.full or size == NARROW else models[:1]:
                report = _with_rate(report, measure_block(card, block.work(size), setting))
                yield report
        except Stopped as error:
            yield self._with(report, Finding(f"speed, {setting}", error.verdict, str(error)))

    def _checked(self, check: str, function: Callable[[], Finding]) -> Finding:
        """A check's finding; nothing is tried any more where the driver ended too many processes."""
        if self._ended >= _GIVES_UP:
            return Finding(check, Verdict.LEFT_OUT, "as the driver ended or held up what came before")
        self._watch.progress(self._done, check)
        try:
            return function()
        except Stopped as error:
            return Finding(check, error.verdict, str(error))

    def _with(self, report: CardReport, finding: Finding) -> CardReport:
        self._ended += finding.verdict in _ENDS
        return replace(report, findings=(*report.findings, finding))

    @property
    def _done(self) -> float:
        """The share of the time that is over."""
        return min(1.0, max(0.0, 1.0 - self._clock.left / self._options.seconds))

    @contextmanager
    def _trial(self, device: str, setting: Mapping[str, str]) -> Iterator[Trial]:
        environment = {**setting, **(self._options.environment if device != CPU else {})}
        trial = Trial(device, self._folder, self._clock, environment, self._threads)
        try:
            yield trial
        finally:
            trial.close()


def _with_rate(report: CardReport, rate: Rate) -> CardReport:
    return replace(report, rates=(*report.rates, rate))


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
