"""Training metrics: one JSON object per line, and optionally services such as TensorBoard.

The file agrees with the checkpoint from which a run resumes: lines after that step are dropped, and so is an incomplete
last line left by a kill. An interrupted run therefore leaves the same lines as an uninterrupted one, except for times
and rates.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from etils import epath

from scotd_jax.errors import InputError
from scotd_jax.progress import log
from scotd_jax.strict_json import loads
from scotd_jax.training.metric_services import MetricService

# Factor by which the norm of the parameters may grow in one update. With any usual learning rate it is far below 2.
MAX_GROWTH = 100.0
MAX_SKIPS = 10  # consecutive skipped updates after which a run ends
SUMMED = ("tokens", "rationales", "flops")  # metrics that are summed over the updates of a line


class MetricWriter:
    """Appends lines `{"step": n, name: number, ...}` to a file. A context manager.

    Object stores cannot append, so there `flush` writes the whole file. Only the first host writes.

    Args:
      path: metrics file.
      restored_step: lines after this step are dropped.
      services: functions that open services to which the metrics are written too (`metric_services`).
    """

    def __init__(self, path: epath.PathLike, restored_step: int, services: Sequence[Callable[[], MetricService]] = ()):
        self._path = epath.Path(path)
        self._file = None
        self._services: list[MetricService] = []
        self._disabled = jax.process_index() != 0
        if self._disabled:
            return
        self._lines = _lines_up_to(self._path, restored_step)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._rewrite()
        self._services = [open_service() for open_service in services]
        if "://" not in str(path):
            self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115  # closed by __exit__

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()
        if self._file is not None:
            self._file.close()
        for service in self._services:
            service.close()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Appends one line."""
        if self._disabled:
            return
        line = json.dumps({"step": step, **values})
        if self._file is not None:
            self._file.write(line + "\n")
            self._file.flush()
        else:
            self._lines.append(line)
        for service in self._services:
            service.write_scalars(step, dict(values))

    def flush(self) -> None:
        """Makes all lines written so far visible to readers of the file."""
        if self._file is None and not self._disabled:
            self._rewrite()
        for service in self._services:
            service.flush()

    def _rewrite(self) -> None:
        temporary = self._path.parent / (self._path.name + ".tmp")
        temporary.write_text("".join(line + "\n" for line in self._lines))
        temporary.replace(self._path)


class DivergedError(InputError):
    """The loss, the gradient or the parameters of an update are not finite, or the parameters have exploded."""


class DeferredMetrics:
    """Fetches the metrics of every update one update late and aggregates them to one line per `log_every` updates.

    If the host fetched those of the update just dispatched, it would wait for the devices, and then the devices would
    wait for the host.

    A line has the token-weighted means of losses, `objective` and `token_accuracy`, the plain mean of `grad_norm`, the
    sums of tokens, rationales and flops, and the last value of all other metrics. It also has the rate per second of
    each sum and, if the peak is known, `mfu`, the rate of flops as a share of the peak.

    Every update is checked. Since checkpoints are saved after `drain`, none contains the parameters of a diverged one.

    Args:
      log_every: updates per line.
      emit: receives step and values of each line.
      seconds: returns the seconds spent on updates so far. Compilations, which can happen at any update, do not count,
        so they do not distort the rates.
      peak: peak FLOP/s of all devices together; None if unknown.
      skips: whether updates whose loss or gradient is not finite were skipped by the device and do not count.
      unfinished: the value of `unfinished` when the restored checkpoint was saved.
    """

    def __init__(
        self,
        log_every: int,
        emit: Callable[[int, dict[str, float]], None],
        seconds: Callable[[], float],
        peak: float | None = None,
        skips: bool = False,
        unfinished: Mapping[str, Any] | None = None,
    ):
        self._log_every, self._emit, self._seconds, self._peak = log_every, emit, seconds, peak
        self._skips, self._num_skipped = skips, 0  # consecutive ones
        self._norm: float | None = None  # of the parameters after the last update
        self._pending: tuple[int, Mapping[str, jax.Array], Mapping[str, float]] | None = None
        self.restart()
        if unfinished:
            self._rows, self._since = list(unfinished["rows"]), self._since - unfinished["seconds"]

    def restart(self) -> None:
        """Starts a new line."""
        self._rows: list[dict[str, float]] = []
        self._since = self._seconds()

    def add(self, step: int, metrics: Mapping[str, jax.Array], flops: Mapping[str, float]) -> None:
        """Registers the update just dispatched, and fetches the metrics of the one before it.

        Args:
          step: number of the update.
          metrics: its metrics, which may still be computed.
          flops: `accounting.batch_flops` of its batch.
        """
        previous, self._pending = self._pending, (step, metrics, flops)
        if previous is not None:
            self._fetch(*previous, end_line=previous[0] % self._log_every == 0)

    def drain(self, end_line: bool = True) -> None:
        """Waits for the last update, checks it, and emits the line up to it.

        Args:
          end_line: False for a save that is not scheduled: the line then ends where it would without the save.
        """
        previous, self._pending = self._pending, None
        if previous is not None:
            self._fetch(*previous, end_line=end_line or previous[0] % self._log_every == 0)

    @property
    def unfinished(self) -> dict[str, Any]:
        """The updates of the line that is not emitted yet, for a checkpoint."""
        return {"rows": self._rows, "seconds": self._seconds() - self._since} if self._rows else {}

    def devices_idle(self) -> bool:
        """Returns whether the devices have finished every dispatched update. Does not wait."""
        return self._pending is None or self._pending[1]["loss"].is_ready()  # pyrefly: ignore[missing-attribute]

    def wait(self) -> None:
        """Waits until the devices have finished every dispatched update."""
        jax.block_until_ready(self._pending and self._pending[1])

    def _fetch(self, step: int, metrics: Mapping[str, jax.Array], flops: Mapping[str, float], end_line: bool) -> None:
        row = {name: float(value) for name, value in jax.device_get(dict(metrics)).items()} | dict(flops)
        if self._check(step, row):
            self._rows.append(row)
        if end_line and self._rows:
            self._emit(step, _aggregate(self._rows, self._seconds() - self._since, self._peak))
            self.restart()

    def _check(self, step: int, row: Mapping[str, float]) -> bool:
        """Returns whether an update was made, and not skipped. Raises DivergedError if training has diverged."""
        is_skipped = self._skips and not (math.isfinite(row["loss"]) and math.isfinite(row["grad_norm"]))
        limit = MAX_GROWTH * max(1.0, row["param_norm"] if self._norm is None else self._norm)
        self._num_skipped = self._num_skipped + 1 if is_skipped else 0
        if is_skipped and self._num_skipped < MAX_SKIPS:
            found = f"the loss is {row['loss']:.4g}, the norm of the gradient {row['grad_norm']:.4g}"
            log(f"update {step} skipped: {found}", process_index=jax.process_index())
            return False
        numbers = row["loss"], row["grad_norm"], row["param_norm"]
        if is_skipped or not all(map(math.isfinite, numbers)) or row["param_norm"] > limit:
            raise DivergedError(
                f"training diverged: the loss of update {step} is {row['loss']:.4g}, the norm of its gradient "
                f"{row['grad_norm']:.4g}, and that of the parameters after it {row['param_norm']:.4g}. Nothing of it "
                "is saved: lower optimizer.learning_rate, lengthen optimizer.warmup_steps or lower optimizer.clip_norm "
                "and start again with --overwrite=train, or resume with training.on_divergence='skip' or 'rewind'"
            )
        self._norm = row["param_norm"]
        return True


def _aggregate(rows: list[dict[str, float]], seconds: float, peak: float | None) -> dict[str, float]:
    """The values of one line."""
    tokens = [row["tokens"] for row in rows]
    values = dict(rows[-1])
    for name in (name for name in values if name.startswith("loss") or name in ("objective", "token_accuracy")):
        values[name] = sum(row[name] * row["tokens"] for row in rows) / max(sum(tokens), 1.0)
    values["grad_norm"] = sum(row["grad_norm"] for row in rows) / len(rows)
    values["seconds_per_step"] = seconds / len(rows)
    for name in (name for name in SUMMED if name in values):
        values[name] = sum(row[name] for row in rows)
        values[f"{name}_per_second"] = values[name] / max(seconds, 1e-9)
    if peak and "flops" in values:
        values["mfu"] = values["flops_per_second"] / peak
    return values


def read_metrics(path: epath.PathLike) -> list[dict[str, Any]]:
    """Reads a metrics file, without an incomplete last line.

    Raises:
      InputError: if another line is not a JSON object with a step and numbers.
    """
    complete, _, _ = epath.Path(path).read_bytes().rpartition(b"\n")
    rows = []
    for number, line in enumerate(complete.split(b"\n") if complete else (), 1):
        try:
            row = loads(line)
        except ValueError as error:
            raise InputError(f"{path} line {number}: not a JSON object ({error}); expected one per step") from None
        is_valid = isinstance(row, dict) and isinstance(row.get("step"), int)
        if not is_valid or any(type(value) not in (int, float) for value in row.values()):
            raise InputError(
                f'{path} line {number}: expected {{"step": N, NAME: NUMBER, ...}}, found {line[:60]!r}; remove the '
                "line if the file was edited"
            )
        rows.append(row)
    return rows


def _lines_up_to(path: epath.Path, step: int) -> list[str]:
    if not path.exists():
        return []
    return [json.dumps(row) for row in read_metrics(path) if row["step"] <= step]
