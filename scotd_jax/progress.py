"""How far a long piece of work is: a bar on a terminal, a plain line every few seconds elsewhere.

Work that ends within the first interval prints its summary only. One process of a run speaks (index 0), the others
are silent. Everything goes to standard error, so that standard output stays free for results. `rich` is imported
when a bar is drawn, not before.
"""

import collections
import io
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

WINDOW = 30.0  # seconds over which the rate is taken: compilation at the start must not spoil it for ever


class Progress:
    """Counts `unit`s of work under a `label`: a context manager.

    `total` is the number of units of the whole work (None: unknown), `done` how many of them an earlier run has
    finished already; rates count this run only. `stream` is standard error unless told otherwise, `interval` the
    seconds between plain lines, `clock` a function that returns seconds.

        with Progress(450, "sample teacher", "questions", process_index=jax.process_index()) as progress:
            for batch in batches:
                ...
                progress.advance(len(batch), note="71 % right")
    """

    def __init__(
        self,
        total: int | None,
        label: str,
        unit: str,
        *,
        process_index: int = 0,
        done: int = 0,
        stream: io.TextIOBase | None = None,
        interval: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.total, self.label, self.unit, self.done = total, label, unit, done
        self._first = done
        self._quiet = process_index != 0
        self._stream = stream if stream is not None else sys.stderr
        self._interval = interval
        self._clock = clock
        self._note = ""
        self._bar: Any = None  # rich task of the shared screen
        self._restart()

    def __enter__(self) -> "Progress":
        self._restart()
        if not self._quiet and is_terminal(self._stream):
            self._bar = _SCREEN.open(self._stream, self.label, self.total, self.done)
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if self._bar is not None:
            _SCREEN.close(self._bar)
            self._bar = None
        if not self._quiet:
            log(self._summary("" if kind is None else " when interrupted"), stream=self._stream)

    def advance(self, units: int = 1, note: str = "") -> None:
        """Counts `units` more. `note` is shown beside the count until the next one replaces it."""
        self.done += units
        self._note = note or self._note
        now = self._clock()
        if now - self._samples[-1][0] >= WINDOW / 100 or len(self._samples) == 1:
            self._samples.append((now, self.done))
            while len(self._samples) > 2 and now - self._samples[1][0] >= WINDOW:
                self._samples.popleft()
        if self._quiet:
            return
        if self._bar is not None:
            _SCREEN.update(self._bar, self.done, self._status())
        elif now - self._printed >= self._interval:
            self._printed = now
            log(f"{self.label}: {self._status()}", stream=self._stream)

    def log(self, message: str) -> None:
        """Prints a line above the bar; nothing on processes other than 0."""
        if not self._quiet:
            log(message, stream=self._stream)

    def _restart(self) -> None:
        self._start = self._printed = self._clock()
        self._samples = collections.deque([(self._start, self.done)])  # (seconds, done), the last WINDOW of them

    def _status(self) -> str:
        """For example "320 of 1000 questions (32 %), 12.3 questions/s, 55 s left, loss 1.23"."""
        parts = [f"{self.done} {self.unit}"]
        if self.total:
            parts = [f"{self.done} of {self.total} {self.unit} ({100 * self.done // self.total} %)"]
        (t0, n0), now = self._samples[0], self._clock()
        rate = (self.done - n0) / (now - t0) if now > t0 else 0.0
        if rate > 0:
            parts.append(format_rate(rate, self.unit))
            if self.total and self.total > self.done:
                parts.append(f"{format_seconds((self.total - self.done) / rate)} left")
        return ", ".join([*parts, self._note] if self._note else parts)

    def _summary(self, ending: str) -> str:
        seconds = self._clock() - self._start
        count = f"{self.done} of {self.total}" if self.total and self.done != self.total else f"{self.done}"
        rate = (self.done - self._first) / seconds if seconds > 0 else 0.0
        speed = f" ({format_rate(rate, self.unit)})" if rate > 0 else ""
        note = f", {self._note}" if self._note else ""
        return f"{self.label}: {count} {self.unit} in {format_seconds(seconds)}{speed}{ending}{note}"


def log(message: str, *, process_index: int = 0, stream: io.TextIOBase | None = None) -> None:
    """Prints one line at once, above the bars if there are any; nothing on processes other than 0."""
    if process_index == 0:
        _SCREEN.print(message, stream if stream is not None else sys.stderr)


def is_terminal(stream: io.TextIOBase) -> bool:
    """Whether a bar can be drawn there: a terminal that can move its cursor."""
    return stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb", "unknown")


def format_seconds(seconds: float) -> str:
    """ "0.4 s", "55 s", "3 min 20 s", "1 h 05 min"."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def format_rate(rate: float, unit: str) -> str:
    """Three digits a second; what takes longer than that is told per unit ("8.5 s per step")."""
    if rate >= 0.5:
        return f"{rate:.3g} {unit}/s" if rate < 1000 else f"{rate:,.0f} {unit}/s"
    return f"{format_seconds(1 / rate)} per {unit.removesuffix('s')}"


class _Screen:
    """The one live display of the process. Bars that run inside each other are lines of it."""

    def __init__(self):
        self._lock = threading.RLock()
        self._display: Any = None
        self._stream: io.TextIOBase | None = None

    def open(self, stream: io.TextIOBase, label: str, total: int | None, done: int) -> Any:
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

    def print(self, message: str, stream: io.TextIOBase) -> None:
        with self._lock:
            if self._display is not None and stream is self._stream:
                self._display.console.print(message, markup=False, highlight=False, soft_wrap=True)
            else:
                print(message, file=stream, flush=True)


_SCREEN = _Screen()
