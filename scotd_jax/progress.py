"""Progress reports: a bar on a terminal, a plain line every few seconds elsewhere, and a summary at the end.

Work that ends within the first interval prints its summary only. Only the process with index 0 prints. Everything goes
to standard error, so that standard output stays free for results. `rich` is imported only when a bar is drawn.
"""

import collections
import contextlib
import contextvars
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

TextStream = Any  # typing.TextIO, whose run-time check rejects io.StringIO and the capture streams of pytest

WINDOW = 30.0  # seconds over which the rate is averaged
MIN_RATE_SECONDS = 1.0  # a rate over less time predicts nothing
MIN_COMPILE_SECONDS = 1.0  # compilations that take less are not reported


_PREFIX = contextvars.ContextVar("prefix", default="")


class CompileTimes:
    """Seconds of compilation in this process. Rates exclude them, and the innermost progress line reports them."""

    def __init__(self) -> None:
        self.total = 0.0
        self._open: list[Progress] = []

    def record(self, seconds: float) -> None:
        """Adds one compilation (distributed/compile_times.py)."""
        self.total += seconds
        if self._open and seconds >= MIN_COMPILE_SECONDS:
            self._open[-1].log(f"{self._open[-1].label}: compiled in {format_seconds(seconds)}")

    def open(self, progress: "Progress") -> None:
        """Reports compilations with this progress line until `close`."""
        self._open.append(progress)

    def close(self, progress: "Progress") -> None:
        """Ends `open`."""
        self._open.remove(progress)


COMPILE_TIMES = CompileTimes()


class Progress:
    """Counts units of work; a context manager.

        with Progress(450, "teacher", "responses", scope="world.test", process_index=jax.process_index()) as progress:
            for batch in batches:
                ...
                progress.advance(len(batch), note="slots 71 % busy")

    prints "teacher: 450 responses for world.test in 0.5 s (832/s, slots 71 % busy)" at its end.
    """

    def __init__(
        self,
        total: int | None,
        label: str,
        unit: str,
        *,
        scope: str = "",
        process_index: int = 0,
        done: int = 0,
        stream: TextStream | None = None,
        interval: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
        compile_times: CompileTimes = COMPILE_TIMES,
    ):
        """Creates a counter.

        Args:
          total: number of units of the whole work; None if unknown.
          label: beginning of every line, for example the name of a model.
          unit: plural noun for the units, for example "responses".
          scope: name of the set that the units belong to, for example a question set.
          process_index: index of this process; only process 0 prints.
          done: units that an earlier run has finished; rates count this run only.
          stream: where to print; standard error by default.
          interval: seconds between plain lines.
          clock: returns the time in seconds.
          compile_times: the compilations of this process.
        """
        self.total, self.label, self.unit, self.done = total, label, unit, done
        self._counted = f"{unit} for {scope}" if scope else unit
        self._done_before = done
        self._quiet = process_index != 0
        self._stream = stream if stream is not None else sys.stderr
        self._interval = interval
        self._clock = clock
        self._compile_times = compile_times
        self._note = ""
        self._bar: Any = None  # rich task of the shared screen
        self._restart()

    def __enter__(self) -> "Progress":
        self._restart()
        self._compile_times.open(self)
        if not self._quiet and is_terminal(self._stream):
            self._bar = _SCREEN.open(self._stream, self.label, self.total, self.done)
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._compile_times.close(self)
        if self._bar is not None:
            _SCREEN.close(self._bar)
            self._bar = None
        if not self._quiet:
            log(self._summary(interrupted=kind is not None), stream=self._stream)

    def advance(self, units: int = 1, note: str = "") -> None:
        """Counts `units` more. `note` is printed with the count until another note replaces it."""
        self.done += units
        self._note = note or self._note
        now, working = self._clock(), self._working_seconds()
        # The first units include loading and start-up, so rates begin with the second ones. The window
        # holds about 100 samples at most.
        if not self._samples or working - self._samples[-1][0] >= WINDOW / 100:
            self._samples.append((working, self.done))
            while len(self._samples) > 2 and working - self._samples[1][0] >= WINDOW:
                self._samples.popleft()
        if self._quiet:
            return
        if self._bar is not None:
            _SCREEN.update(self._bar, self.done, self._status())
        elif now - self._printed >= self._interval:
            self._printed = now
            log(f"{self.label}: {self._status()}", stream=self._stream)

    def log(self, message: str) -> None:
        """Prints a line above the bar, on process 0 only."""
        if not self._quiet:
            log(message, stream=self._stream)

    def _restart(self) -> None:
        self._start = self._printed = self._clock()
        self._compiled_before = self._compile_times.total
        # (seconds without compilation, done) of the last WINDOW seconds
        self._samples: collections.deque[tuple[float, int]] = collections.deque()

    def _working_seconds(self) -> float:
        """Seconds since the start, without those of compilation."""
        return self._clock() - self._start - self._compile_seconds()

    def _compile_seconds(self) -> float:
        return self._compile_times.total - self._compiled_before

    def _rate(self) -> float | None:
        """Units per second over the window; None if it is too short to mean something."""
        if len(self._samples) < 2 or self._samples[-1][0] - self._samples[0][0] < MIN_RATE_SECONDS:
            return None
        start, done = self._samples[0]
        return (self.done - done) / max(self._working_seconds() - start, MIN_RATE_SECONDS)

    def _status(self) -> str:
        """Returns, for example, "320 of 1000 responses for world.test (32 %), 12.3/s, 55 s left, slots 78 % busy"."""
        parts = [f"{self.done} {self._counted}"]
        if self.total:
            parts = [f"{self.done} of {self.total} {self._counted} ({100 * self.done // self.total} %)"]
        if rate := self._rate():
            parts.append(format_rate(rate, self.unit))
            if self.total and self.total > self.done:
                parts.append(f"{format_seconds((self.total - self.done) / rate)} left")
        return ", ".join([*parts, self._note] if self._note else parts)

    def _summary(self, *, interrupted: bool) -> str:
        """Returns, for example, "teacher: 256 responses for world.test in 0.3 s (832/s, slots 78 % busy)"."""
        seconds, working = self._clock() - self._start, self._working_seconds()
        count = f"{self.done} of {self.total}" if self.total and self.done != self.total else f"{self.done}"
        rate = (self.done - self._done_before) / working if working > 0 else 0.0
        details = [format_rate(rate, self.unit)] if rate > 0 else []
        if self._compile_seconds() >= MIN_COMPILE_SECONDS:
            details.append(f"{format_seconds(self._compile_seconds())} of compilation")
        details += [self._note] if self._note else []
        suffix = f" ({', '.join(details)})" if details else ""
        ending = ", interrupted" if interrupted else ""
        return f"{self.label}: {count} {self._counted} in {format_seconds(seconds)}{suffix}{ending}"


def log(message: str, *, process_index: int = 0, stream: TextStream | None = None) -> None:
    """Prints one line immediately, above any bars, on process 0 only."""
    if process_index == 0:
        _SCREEN.print(f"{_PREFIX.get()}{message}", stream if stream is not None else sys.stderr)


@contextlib.contextmanager
def prefixed(prefix: str) -> Iterator[None]:
    """Begins every line that this thread prints in the block with a prefix."""
    token = _PREFIX.set(prefix)
    try:
        yield
    finally:
        _PREFIX.reset(token)


def is_terminal(stream: TextStream) -> bool:
    """Returns whether the stream is a terminal that can move its cursor, so that a bar can be drawn."""
    return stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb", "unknown")


def format_seconds(seconds: float) -> str:
    """Formats a duration: "0.4 s", "55 s", "3 min 20 s", "1 h 05 min"."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def format_rate(rate: float, unit: str) -> str:
    """Formats a rate in units per second: three digits ("12.3/s"), or the time per unit ("8.5 s per step") if slow."""
    if rate >= 0.5:
        return f"{rate:.3g}/s" if rate < 1000 else f"{rate:,.0f}/s"
    return f"{format_seconds(1 / rate)} per {unit.removesuffix('s')}"


class _Screen:
    """The live display of the process. Nested bars are lines of it."""

    def __init__(self):
        self._lock = threading.RLock()
        self._display: Any = None
        self._stream: TextStream | None = None

    def open(self, stream: TextStream, label: str, total: int | None, done: int) -> Any:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        with self._lock:
            if self._display is None:
                columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=24), TimeElapsedColumn())
                status = TextColumn("{task.fields[status]}", markup=False)
                self._display = Progress(*columns, status, console=Console(file=stream), transient=True)
                self._stream = stream
                self._display.start()
            return self._display.add_task(label, total=total, completed=done, status="")

    def update(self, bar: Any, done: int, status: str) -> None:
        with self._lock:
            self._display.update(bar, completed=done, status=status)

    def close(self, bar: Any) -> None:
        with self._lock:
            self._display.remove_task(bar)
            if not self._display.tasks:
                self._display.stop()
                self._display = self._stream = None

    def print(self, message: str, stream: TextStream) -> None:
        with self._lock:
            if self._display is not None and stream is self._stream:
                self._display.console.print(message, markup=False, highlight=False, soft_wrap=True)
            else:
                print(message, file=stream, flush=True)


_SCREEN = _Screen()
