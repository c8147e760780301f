"""Cost of a training run: FLOPs per update, wall time by category, and goodput.

Every second since the start of `loop.train` counts in exactly one category: the time inside a block
`with tracker.measure(NAME)` as NAME, all other time as updates. Goodput is the updates' share of the total. The tracker
reads the clock without waiting for the devices, because the host runs at most one update ahead of them.

Each line of training metrics contains the totals so far; a resumed run continues from those of the last one. Updates
made after the last checkpoint are repeated; their time counts as `lost`. The time of a killed process after its last
line and the time during which no process ran are unknown and left out.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
from etils import epath

from scotd_jax.distributed.chips import peak_flops
from scotd_jax.distributed.flops import training_flops
from scotd_jax.training.metrics import read_metrics

CATEGORIES = ("compile", "input", "checkpoint", "evaluation", "other", "lost")


class GoodputTracker:
    """Measures seconds by category.

    - `updates`: all time that is in no other category
    - `compile`: calls that compile the update for batches of a new shape
    - `input`: waiting for the next batch while the devices are idle
    - `checkpoint`: saving, as far as the next update has to wait for it, and restoring
    - `evaluation`: evaluating the dev questions
    - `other`: sharding the parameters, initializing the optimizer, the startup check
    - `lost`: updates of earlier processes that have to be repeated

    Args:
      previous: seconds of earlier processes (`previous_seconds`).
      clock: returns the time in seconds.
    """

    def __init__(self, previous: Mapping[str, float] | None = None, clock: Callable[[], float] = time.perf_counter):
        self._clock, self._start = clock, clock()
        self._seconds = dict.fromkeys(CATEGORIES, 0.0) | dict(previous or {})
        self._previous_updates = self._seconds.pop("updates", 0.0)
        self._previous_others = sum(self._seconds.values())

    @contextlib.contextmanager
    def measure(self, category: str, counts: Callable[[], bool] = lambda: True) -> Iterator[None]:
        """Adds the time of the block to `category`.

        Args:
          category: one of CATEGORIES.
          counts: called after the block; if it returns False, the time counts as updates instead.
        """
        start = self._clock()
        try:
            yield
        finally:
            if counts():
                self._seconds[category] += self._clock() - start

    def update_seconds(self) -> float:
        """Seconds spent on updates since the first process started."""
        others = sum(self._seconds.values()) - self._previous_others
        return self._previous_updates + self._clock() - self._start - others

    def totals(self) -> dict[str, float]:
        """Returns `goodput`, 0 to 1, and `seconds_CATEGORY`, since the first process started."""
        seconds = {"updates": self.update_seconds(), **self._seconds}
        goodput = seconds["updates"] / max(sum(seconds.values()), 1e-9)
        return {"goodput": goodput, **{f"seconds_{name}": round(value, 3) for name, value in seconds.items()}}


def previous_seconds(path: epath.PathLike, step: int) -> dict[str, float]:
    """Seconds by category of earlier processes, from the last line of a metrics file; {} without one.

    Args:
      path: metrics file, which may be missing.
      step: the restored step; the time of updates after it counts as lost.
    """
    if not epath.Path(path).exists():
        return {}
    rows = [row for row in read_metrics(path) if "goodput" in row]
    if not rows:
        return {}
    seconds = {name: rows[-1].get(f"seconds_{name}", 0.0) for name in ("updates", *CATEGORIES)}
    retained = max((row.get("seconds_updates", 0.0) for row in rows if row["step"] <= step), default=0.0)
    return seconds | {"updates": retained, "lost": seconds["lost"] + seconds["updates"] - retained}


def batch_flops(config: Any, batch: Mapping[str, Mapping[str, jax.Array]]) -> dict[str, float]:
    """Returns `{"flops": FLOPs of one update on the batch}`, or `{}` for a model without a formula.

    All positions of the arrays count, including padding, because the devices compute them.
    """
    flops = 0
    for part in batch.values():
        (B, P), (_, G, R) = part["prompt"].shape, part["inputs"].shape
        flops += training_flops(config, questions=B, group=G, prompt=P, response=R)
    return {"flops": float(flops)} if flops else {}


def mesh_peak_flops(mesh: jax.sharding.Mesh) -> float | None:
    """Returns the peak FLOP/s of all devices of the mesh together; None if that of any device is unknown."""
    peaks = [peak_flops(device.device_kind) for device in mesh.devices.flat]
    known = [peak for peak in peaks if peak is not None]
    return sum(known) if len(known) == len(peaks) else None


def summarize_cost(lines: Sequence[Mapping[str, int | float]], totals: Mapping[str, float]) -> dict[str, float]:
    """Returns the cost of a training run, for its manifest.

    Args:
      lines: all metrics lines.
      totals: `GoodputTracker.totals` at the end.

    Returns:
      `totals`, the number of rationales, rationales per second of updates, and the mean model FLOPs utilization (`mfu`)
      over all lines that have one. It is weighted by the FLOPs that the devices could have computed, so it also holds
      for runs that changed devices.
    """
    rationales = sum(line.get("rationales", 0.0) for line in lines)
    rates = {"rationales": rationales, "rationales_per_second": rationales / max(totals["seconds_updates"], 1e-9)}
    measured = [line for line in lines if line.get("mfu")]
    if measured:
        possible = sum(line["flops"] / line["mfu"] for line in measured)
        rates["mfu"] = sum(line["flops"] for line in measured) / possible
    return {**totals, **{name: round(value, 4) for name, value in rates.items()}}
