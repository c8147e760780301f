"""Numbers of a run, one JSON object per line, and the same on TensorBoard where asked.

The file agrees with the checkpoint from which a run goes on: lines past that step are dropped, and so is a last line
that a kill has torn, so an interrupted run leaves the file of an uninterrupted one.
"""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
from etils import epath

from scotd_jax.errors import InputError

SUMS = ("tokens", "rationales", "flops")  # over the updates of a line; the other numbers are means


class MetricWriter:
    """Appends `{"step": n, name: number, ...}` lines to `path`. A context manager.

    Lines past `restored_step` are dropped first. Object stores cannot append, so there the whole file is written anew
    at every `flush`. With `tensorboard` the numbers also go to that folder, through clu (needs TensorFlow). On hosts
    other than the first nothing is written.
    """

    def __init__(self, path: epath.PathLike, restored_step: int, tensorboard: epath.PathLike | None = None):
        self._path = epath.Path(path)
        self._file = self._board = None
        self._silent = jax.process_index() != 0
        if self._silent:
            return
        self._lines = _lines_up_to(self._path, restored_step)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._rewrite()
        self._board = None if tensorboard is None else _board(tensorboard)
        if "://" not in str(path):
            self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115  # closed by close()

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        if self._silent:
            return
        line = json.dumps({"step": step, **values})
        if self._file is not None:
            self._file.write(line + "\n")
            self._file.flush()
        else:
            self._lines.append(line)
        if self._board is not None:
            self._board.write_scalars(step, dict(values))

    def flush(self) -> None:
        """Makes everything written so far visible to others."""
        if self._file is None and not self._silent:
            self._rewrite()
        if self._board is not None:
            self._board.flush()

    def _rewrite(self) -> None:
        temporary = self._path.parent / (self._path.name + ".tmp")
        temporary.write_text("".join(line + "\n" for line in self._lines))
        temporary.replace(self._path)


class LateMetrics:
    """Means over the updates since the last line, each update's numbers fetched one update late.

    Fetching the numbers of the update just dispatched would make the host wait for it, and the devices then for the
    host. losses, `objective` and `token_accuracy` are weighted by `tokens`, which is a sum, as are `rationales` and
    `flops`; `grad_norm` is a plain mean; the rest is that of the last update. Of all sums the line also has the rate
    per second, and `mfu`, that of flops as a share of `peak`, where this is known. `emit(step, values)` receives each
    line. `seconds()` is how long updates have taken so far: what a batch of a new shape took to compile, which may come
    at any time, says nothing about the speed.
    """

    def __init__(
        self,
        log_every: int,
        emit: Callable[[int, dict[str, float]], None],
        seconds: Callable[[], float],
        peak: float | None = None,
    ):
        self._log_every, self._emit, self._seconds, self._peak = log_every, emit, seconds, peak
        self._pending: tuple[int, Mapping[str, jax.Array], Mapping[str, float]] | None = None
        self.restart()

    def restart(self) -> None:
        """Begins a new line."""
        self._rows: list[dict[str, float]] = []
        self._since = self._seconds()

    def add(self, step: int, metrics: Mapping[str, jax.Array], work: Mapping[str, float]) -> None:
        """Takes note of the update just dispatched, and of the `work` in it, and reads the one before it."""
        late, self._pending = self._pending, (step, metrics, work)
        if late is not None:
            self._read(*late, line=late[0] % self._log_every == 0)

    def drain(self) -> None:
        """Waits for the last update and writes the line up to it."""
        late, self._pending = self._pending, None
        if late is not None:
            self._read(*late, line=True)

    def idle(self) -> bool:
        """Whether the devices have nothing left to do. Waits for nothing."""
        return self._pending is None or self._pending[1]["loss"].is_ready()

    def wait(self) -> None:
        """Returns when the devices have done what they were given."""
        jax.block_until_ready(self._pending and self._pending[1])

    def _read(self, step: int, metrics: Mapping[str, jax.Array], work: Mapping[str, float], line: bool) -> None:
        row = {name: float(value) for name, value in jax.device_get(dict(metrics)).items()} | work
        if not math.isfinite(row["loss"]):
            raise InputError(
                f"training diverged: the loss of update {step} is {row['loss']}; lower optimizer.learning_rate, "
                "lengthen optimizer.warmup_steps or lower optimizer.clip_norm, then start again with --overwrite=train"
            )
        self._rows.append(row)
        if line:
            self._emit(step, _means(self._rows, self._seconds() - self._since, self._peak))
            self.restart()


def _means(rows: list[dict[str, float]], seconds: float, peak: float | None) -> dict[str, float]:
    tokens = [row["tokens"] for row in rows]
    values = dict(rows[-1])
    for name in (name for name in values if name.startswith("loss") or name in ("objective", "token_accuracy")):
        values[name] = sum(row[name] * row["tokens"] for row in rows) / max(sum(tokens), 1.0)
    values["grad_norm"] = sum(row["grad_norm"] for row in rows) / len(rows)
    values["seconds_per_step"] = seconds / len(rows)
    for name in (name for name in SUMS if name in values):
        values[name] = sum(row[name] for row in rows)
        values[f"{name}_per_second"] = values[name] / max(seconds, 1e-9)
    if peak and "flops" in values:
        values["mfu"] = values["flops_per_second"] / peak
    return values


def read_metrics(path: epath.PathLike) -> list[dict[str, Any]]:
    """The lines of a metrics file, a torn last one left out. Raises InputError on a broken line before that."""
    text = epath.Path(path).read_text()
    whole, _, _ = text.rpartition("\n")
    rows = []
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise InputError(f"{path} line {number}: not a JSON object ({error}); expected one per step") from None
    return rows


def _lines_up_to(path: epath.Path, step: int) -> list[str]:
    if not path.exists():
        return []
    return [json.dumps(row) for row in read_metrics(path) if row["step"] <= step]


def _board(folder: epath.PathLike) -> Any:
    try:
        from clu import metric_writers
    except ImportError as error:
        raise InputError(
            f"training.tensorboard needs more packages ({error}); install the extra 'tensorboard' or set it to False"
        ) from None
    return metric_writers.SummaryWriter(str(folder))
