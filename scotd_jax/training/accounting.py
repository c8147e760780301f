"""What a training costs and where its wall time goes: work per update, seconds by purpose, goodput.

Every second between the beginning of `loop.train` and now counts for exactly one purpose: inside of a block
`with spent.on(NAME)` for that name, outside of all blocks for the updates. Goodput is the updates' share of all of
them. Reading the clock waits for no device, and it need not: the host runs at most one update ahead of the devices.

The lines of metrics hold the seconds so far, so a run that goes on begins with those of its last line. Updates that
were made but come after the checkpoint have to be made again; what they took is `lost`. Two things no line can tell,
and they are left out: what a killed process did after its last line, and the time in which no process ran.
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

PURPOSES = ("compile", "input", "checkpoint", "evaluation", "other", "lost")


class Spent:
    """Seconds by purpose:

    updates     everything that is not below
    compile     calls that translate the update for batches of a new shape
    input       waiting for the next batch while the devices had nothing to do
    checkpoint  saving, as far as the next update had to wait for it, and restoring
    evaluation  answering the dev questions
    other       placing the parameters and making the optimizer state
    lost        updates of earlier processes that had to be made again
    """

    def __init__(self, before: Mapping[str, float] | None = None, clock: Callable[[], float] = time.perf_counter):
        """`before`: what earlier processes spent (`earlier`)."""
        self._clock, self._begin = clock, clock()
        self._seconds = dict.fromkeys(PURPOSES, 0.0) | dict(before or {})
        self._updates = self._seconds.pop("updates", 0.0)
        self._past = sum(self._seconds.values())

    @contextlib.contextmanager
    def on(self, purpose: str, counts: Callable[[], bool] = lambda: True) -> Iterator[None]:
        """The block is time spent on `purpose`, unless `counts()` says at its end that it is part of an update."""
        begin = self._clock()
        try:
            yield
        finally:
            if counts():
                self._seconds[purpose] += self._clock() - begin

    def updates(self) -> float:
        """Seconds of updates, from the first process to now."""
        return self._updates + self._clock() - self._begin - (sum(self._seconds.values()) - self._past)

    def totals(self) -> dict[str, float]:
        """goodput (0 to 1) and seconds_PURPOSE, from the first process to now."""
        seconds = {"updates": self.updates(), **self._seconds}
        goodput = seconds["updates"] / max(sum(seconds.values()), 1e-9)
        return {"goodput": goodput, **{f"seconds_{name}": round(value, 3) for name, value in seconds.items()}}


def earlier(path: epath.PathLike, step: int) -> dict[str, float]:
    """What earlier processes spent, by the metrics lines in `path`, of which those up to `step` are to stay."""
    if not epath.Path(path).exists():
        return {}
    rows = [row for row in read_metrics(path) if "goodput" in row]
    if not rows:
        return {}
    spent = {name: rows[-1][f"seconds_{name}"] for name in ("updates", *PURPOSES)}
    kept = max((row["seconds_updates"] for row in rows if row["step"] <= step), default=0.0)
    return spent | {"updates": kept, "lost": spent["lost"] + spent["updates"] - kept}


def work_of(config: Any, batch: Mapping[str, Mapping[str, jax.Array]]) -> dict[str, float]:
    """The `flops` of an update on a batch, all parts together (none for unknown models).

    Counted are the places of the arrays, those of padding too: what the devices compute.
    """
    flops = 0
    for part in batch.values():
        (B, P), (_, G, R) = part["prompt"].shape, part["inputs"].shape
        flops += training_flops(config, questions=B, group=G, prompt=P, response=R)
    return {"flops": float(flops)} if flops else {}


def peak_of(mesh: jax.sharding.Mesh) -> float | None:
    """Operations per second of all devices at their best; None where it is not known."""
    peaks = [peak_flops(device.device_kind) for device in mesh.devices.flat]
    return None if None in peaks else sum(peaks)


def summary(lines: Sequence[Mapping[str, int | float]], spent: Mapping[str, float]) -> dict[str, float]:
    """What the manifest says of a training: `Spent.totals`, all rationales, how many in a second of updates, and MFU
    over the updates whose lines have one (so it holds for runs that changed their devices)."""
    rationales = sum(line.get("rationales", 0.0) for line in lines)
    found = {"rationales": rationales, "rationales_per_second": rationales / max(spent["seconds_updates"], 1e-9)}
    measured = [line for line in lines if line.get("mfu")]
    if measured:
        best = sum(line["flops"] / line["mfu"] for line in measured)
        found["mfu"] = sum(line["flops"] for line in measured) / best
    return {**spent, **{name: round(value, 4) for name, value in found.items()}}
