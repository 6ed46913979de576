"""A quota of time and memory for what a thread does, such as planning; work that can be long looks at it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from time import monotonic, thread_time

from .placement import MIB

_ROW_BYTES = 3 << 10  # of an operation while a program is built
_ON_THE_CLOCK = 3  # times as many seconds may pass where the machine is busy


class QuotaExceeded(BaseException):
    """The work takes too long or too much memory; the message is the end of "it was stopped after ...".

    No Exception, so that nobody takes it for a fault of what was being worked on.
    """


class Quota:
    """The time and memory of one piece of work, from now on."""

    def __init__(self, seconds: float, nbytes: int) -> None:
        """seconds: of the processor on this thread, and of waiting. nbytes: of what the work holds at a time."""
        self._seconds = seconds
        self._nbytes = nbytes
        self._began, self._worked = monotonic(), thread_time()
        self._waited = 0.0
        self._waits_since: float | None = None

    def check(self, nbytes: int = 0) -> None:
        """Raises QuotaExceeded where the time is used up, or so many bytes are too many."""
        if nbytes > self._nbytes:
            raise QuotaExceeded(f"{self._nbytes / MIB:,.0f} MiB of ComfyUI's memory, as it takes more")
        now = monotonic()
        waited = self._waited + (0.0 if self._waits_since is None else now - self._waits_since)
        spent = thread_time() - self._worked + waited
        if spent > self._seconds or now - self._began > _ON_THE_CLOCK * self._seconds:
            raise QuotaExceeded(f"{self._seconds:g} s, as it takes longer")

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Within it another process works for this thread."""
        self._waits_since = monotonic()
        try:
            yield
        finally:
            self._waited += monotonic() - self._waits_since
            self._waits_since = None


_current: ContextVar[Quota | None] = ContextVar("quota", default=None)


@contextmanager
def within(quota: Quota) -> Iterator[None]:
    """Gives what is done within it a quota."""
    token = _current.set(quota)
    try:
        yield
    finally:
        _current.reset(token)


def current_quota() -> Quota | None:
    """The quota of what is being done; None where it has none."""
    return _current.get()


def check_quota(nbytes: int = 0) -> None:
    """Quota.check of the quota of what is being done."""
    quota = _current.get()
    if quota is not None:
        quota.check(nbytes)


def check_rows(count: int) -> None:
    """The same for a program of so many operations."""
    check_quota(count * _ROW_BYTES)
