"""Tests of progress lines and bars, on terminals and elsewhere."""

import io
import subprocess
import sys

import pytest

from scotd_jax.progress import CompileTimes, Progress, format_rate, format_seconds, log


class Clock:
    """A clock that the test advances."""

    def __init__(self):
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock() -> Clock:
    return Clock()


def lines(stream: io.StringIO) -> list[str]:
    return stream.getvalue().splitlines()


def test_plain_lines_are_printed_every_interval_with_rate_and_time_left(clock):
    stream = io.StringIO()
    with Progress(100, "sample teacher", "questions", stream=stream, interval=5.0, clock=clock) as progress:
        for _ in range(10):
            clock.now += 2.0
            progress.advance(5)
    assert lines(stream) == [
        "sample teacher: 15 of 100 questions (15 %), 2.5/s, 34 s left",
        "sample teacher: 30 of 100 questions (30 %), 2.5/s, 28 s left",
        "sample teacher: 45 of 100 questions (45 %), 2.5/s, 22 s left",
        "sample teacher: 50 of 100 questions in 20 s (2.5/s)",
    ]


def test_scope_names_what_the_units_belong_to(clock):
    stream = io.StringIO()
    with Progress(
        256, "teacher", "responses", scope="world.test", stream=stream, interval=0.0, clock=clock
    ) as progress:
        clock.now += 0.25
        progress.advance(256, note="slots 78 % busy")
    assert lines(stream) == [
        "teacher: 256 of 256 responses for world.test (100 %), slots 78 % busy",
        "teacher: 256 responses for world.test in 0.2 s (1,024/s, slots 78 % busy)",
    ]


def test_short_work_prints_one_line(clock):
    stream = io.StringIO()
    with Progress(8, "evaluate dev", "questions", stream=stream, clock=clock) as progress:
        for _ in range(8):
            clock.now += 0.5
            progress.advance()
    assert lines(stream) == ["evaluate dev: 8 questions in 4.0 s (2/s)"]


def test_slow_start_is_not_part_of_the_rate(clock):
    stream = io.StringIO()
    with Progress(1000, "train", "steps", stream=stream, interval=0.0, clock=clock) as progress:
        clock.now += 60.0  # loading
        progress.advance()
        assert lines(stream) == ["train: 1 of 1000 steps (0 %)"]
        for _ in range(400):
            clock.now += 0.1
            progress.advance()
        assert "10/s, 1 min 00 s left" in lines(stream)[-1]


def test_rate_of_resumed_work_counts_this_run_only(clock):
    stream = io.StringIO()
    with Progress(100, "sample", "rows", done=60, stream=stream, interval=1.0, clock=clock) as progress:
        for _ in range(2):
            clock.now += 5.0
            progress.advance(10)
    assert lines(stream) == [
        "sample: 70 of 100 rows (70 %)",
        "sample: 80 of 100 rows (80 %), 2/s, 10 s left",
        "sample: 80 of 100 rows in 10 s (2/s)",
    ]


def test_unknown_total_prints_counts_and_note(clock):
    stream = io.StringIO()
    with Progress(None, "read", "records", stream=stream, interval=1.0, clock=clock) as progress:
        clock.now += 2.0
        progress.advance(5000, note="loss 1.23")
    assert lines(stream) == [
        "read: 5000 records, loss 1.23",
        "read: 5000 records in 2.0 s (2,500/s, loss 1.23)",
    ]


def test_error_inside_prints_an_interrupted_summary_and_propagates(clock):
    stream = io.StringIO()

    def work() -> None:
        with Progress(4, "train", "steps", stream=stream, clock=clock) as progress:
            clock.now += 1.0
            progress.advance()
            raise KeyError("broken")

    with pytest.raises(KeyError, match="broken"):
        work()
    assert lines(stream) == ["train: 1 of 4 steps in 1.0 s (1/s), interrupted"]


def test_only_process_0_prints(clock):
    stream = Terminal()
    with Progress(10, "train", "steps", process_index=3, stream=stream, interval=0.0, clock=clock) as progress:
        clock.now += 9.0
        progress.advance(10)
        progress.log("a line")
    log("another", process_index=1, stream=stream)
    assert stream.getvalue() == ""
    assert progress.done == 10


def test_log_prints_a_line(clock):
    stream = io.StringIO()
    log("config saved", stream=stream)
    with Progress(10, "train", "steps", stream=stream, clock=clock) as progress:
        progress.log("checkpoint at step 3")
    assert lines(stream) == ["config saved", "checkpoint at step 3", "train: 0 of 10 steps in 0.0 s"]


def test_nested_bars_on_a_terminal_leave_only_the_lines(monkeypatch, clock):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    stream = Terminal()
    with Progress(10, "train [bold]", "steps", stream=stream, clock=clock) as outer:
        outer.advance(0)
        clock.now += 2.0
        outer.advance(4, note="loss 0.50")
        with Progress(6, "evaluate dev", "questions", stream=stream, clock=clock) as inner:
            clock.now += 1.0
            inner.advance(6)
            inner.log("dev accuracy 61 % [of 6]")
        outer.advance(6)
    text = stream.getvalue()
    assert "\x1b[" in text  # drawn in place
    assert "4 of 10 steps (40 %), 2/s, 3.0 s left, loss 0.50" in text
    assert text.index("train [bold]") < text.index("\x1b[?25h") < text.rindex("train [bold]")  # the cursor is restored
    assert "dev accuracy 61 % [of 6]" in text
    assert text.endswith("train [bold]: 10 steps in 3.0 s (3.33/s, loss 0.50)\n")


def test_dumb_terminal_prints_plain_lines(monkeypatch, clock):
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    with Progress(2, "train", "steps", stream=stream, interval=1.0, clock=clock) as progress:
        progress.advance(0)
        clock.now += 4.0
        progress.advance()
    assert "\x1b[" not in stream.getvalue()
    assert lines(stream)[0] == "train: 1 of 2 steps (50 %), 4.0 s per step, 4.0 s left"


def test_compilation_is_reported_apart_and_not_part_of_the_rate(clock):
    stream, compile_times = io.StringIO(), CompileTimes()

    def compile_for(seconds: float) -> None:
        clock.now += seconds
        compile_times.record(seconds)

    settings = {"stream": stream, "clock": clock, "compile_times": compile_times}
    with Progress(100, "train", "steps", interval=1.0, **settings) as progress:
        compile_for(12.0)
        for step in range(4):
            clock.now += 1.0
            progress.advance(10)
            if step == 1:
                compile_for(30.0)  # a batch of another shape
        with Progress(5, "evaluate", "questions", **settings):
            compile_for(2.0)
            compile_for(0.9)
    assert lines(stream) == [
        "train: compiled in 12 s",
        "train: 10 of 100 steps (10 %)",
        "train: 20 of 100 steps (20 %), 10/s, 8.0 s left",
        "train: compiled in 30 s",
        "train: 30 of 100 steps (30 %), 10/s, 7.0 s left",
        "train: 40 of 100 steps (40 %), 10/s, 6.0 s left",
        "evaluate: compiled in 2.0 s",
        "evaluate: 0 of 5 questions in 2.9 s (2.9 s of compilation)",
        "train: 40 of 100 steps in 49 s (10/s, 45 s of compilation)",
    ]
    compile_times.record(5.0)  # no line is open
    assert len(lines(stream)) == 9


def test_no_time_left_is_estimated_from_a_moment(clock):
    """The time left is printed only after the rate has been measured for a while; the slow first step is excluded."""
    stream = io.StringIO()
    with Progress(1000, "sample", "rows", stream=stream, interval=0.0, clock=clock) as progress:
        for seconds in (20.0, 0.4, 0.4, 0.4):
            clock.now += seconds
            progress.advance(10)
    assert ["left" in line for line in lines(stream)] == [False, False, False, True, False]


def test_rich_is_imported_only_for_bars():
    code = "import sys, scotd_jax.progress as p; p.log('x'); assert not {'rich', 'jax'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, stderr=subprocess.DEVNULL)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (3900.0, "1 h 05 min")],
)
def test_format_seconds(seconds, text):
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("rate", "text"),
    [(123.4, "123/s"), (12345.6, "12,346/s"), (0.5, "0.5/s"), (0.1, "10 s per step")],
)
def test_format_rate(rate, text):
    assert format_rate(rate, "steps") == text
