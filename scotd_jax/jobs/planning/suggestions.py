"""What to change where a job does not fit: the mesh first, then what is computed at a time, then the hardware.

Candidates are gone through by arithmetic, from the least change to the largest: `mesh.fsdp`, which splits parameters
and optimizer state, `mesh.tensor`, then micro-batches, recomputed layers and smaller batches of questions. The first
that fits is compiled where that is possible; the works of one job share a mesh.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from scotd_jax import config as c
from scotd_jax.distributed import topologies
from scotd_jax.distributed.chips import CHIPS
from scotd_jax.distributed.topologies import Topology
from scotd_jax.errors import InputError
from scotd_jax.jobs.planning.outcomes import Outcome, Planner
from scotd_jax.jobs.planning.workloads import Training, Work

TRIES = 3  # compiled at most
ROOM = 0.95  # of the memory: advice leaves some


@dataclasses.dataclass(frozen=True)
class Remedy:
    """Flags of the command line, and on which topology ("" the planned one); `checked` if it was compiled."""

    job: str
    flags: tuple[str, ...]
    total: int
    checked: bool
    topology: str = ""


def find(planner: Planner, works: Sequence[Work], sizes: c.Mesh) -> Remedy | None:
    """The first change with which all works of one job fit. None: nothing does, on any topology that is known."""
    tries = 0
    for mesh, changed in _candidates(planner.topology, works, sizes):
        outcomes = [planner.look(work, mesh, compile=False) for work in changed]
        if not all(map(_roomy, outcomes)):
            continue
        checked = not planner.reason
        if checked:
            if tries == TRIES:
                break
            tries += 1
            outcomes = [planner.look(work, mesh, compile=True) for work in changed]
            if not all(map(_roomy, outcomes)):
                continue
        return _remedy(works, changed, sizes, mesh, outcomes, checked)
    return _elsewhere(planner, works, sizes)


def _elsewhere(planner: Planner, works: Sequence[Work], sizes: c.Mesh) -> Remedy | None:
    """The smallest larger slice of the same chips, or else of others of the platform, by arithmetic."""
    own = planner.topology.chip
    others = [chip for chip in CHIPS.values() if chip.platform == own.platform and chip.usable > own.usable]
    for chip in (own, *sorted(others, key=lambda chip: chip.usable)):
        for count in topologies.slice_sizes(chip):
            topology = topologies.make_topology(chip, count)
            if chip is own and count <= planner.topology.chips:
                continue
            for mesh, changed in _candidates(topology, works, c.Mesh(), coarse=True):
                outcomes = [planner.look(work, mesh, compile=False, topology=topology) for work in changed]
                if all(map(_roomy, outcomes)):
                    return _remedy(works, changed, sizes, mesh, outcomes, False, topology.name)
    return None


def _candidates(
    topology: Topology, works: Sequence[Work], sizes: c.Mesh, coarse: bool = False
) -> Iterator[tuple[c.Mesh, list[Work]]]:
    """Meshes and works, from the least change on, beginning with none. Coarse: ends of scales, works as they are."""
    for step in range(1 if coarse else 8):
        changed = [_lighter(work, step) for work in works]
        if any(each is None for each in changed):
            return
        for tensor in _doublings(max(1, sizes.tensor), topology.per_host, coarse):
            # Parameters that are gathered for every token make a speaker slow.
            most = topology.chips // tensor if topology.hosts > 1 or _trains(works) else max(1, sizes.fsdp)
            # More than now first; less of it makes room for `tensor`, or for a batch that it does not divide.
            for fsdp in sorted(_doublings(1, most, coarse), key=lambda size: (size < sizes.fsdp, size)):
                yield c.Mesh(fsdp=fsdp, tensor=tensor), changed


def _roomy(outcome: Outcome) -> bool:
    return outcome.fits and outcome.total <= ROOM * outcome.usable


def _trains(works: Sequence[Work]) -> bool:
    return any(isinstance(work, Training) for work in works)


def _doublings(first: int, last: int, coarse: bool) -> list[int]:
    found = [first * 2**i for i in range(16) if first * 2**i <= last]
    return found[:: max(1, len(found) - 1)] if coarse else found


def _lighter(work: Work, step: int) -> Work | None:
    """The same work, of which less is computed at a time; None where it cannot be cut any more."""
    if step == 0:
        return work
    if isinstance(work, Training):
        # Two micro-batches, layers computed again (which costs a third of the time), both, then smaller ones.
        cuts = work.settings.microbatches * (2, 1, 2, 4, 8, 16, 32)[step - 1]
        if cuts > work.settings.batch_size:
            return None
        remat = "full" if step > 1 else work.settings.remat
        return dataclasses.replace(work, settings=dataclasses.replace(work.settings, microbatches=cuts, remat=remat))
    batch = max(1, work.policy.batch_size // 2**step)
    return dataclasses.replace(work, policy=dataclasses.replace(work.policy, batch_size=batch))


def _remedy(
    works: Sequence[Work],
    changed: Sequence[Work],
    sizes: c.Mesh,
    mesh: c.Mesh,
    outcomes: Sequence[Outcome],
    checked: bool,
    topology: str = "",
) -> Remedy:
    job = "train" if isinstance(works[0], Training) else works[0].job
    flags = [f"--config.mesh.{axis}={getattr(mesh, axis)}" for axis in _differ(sizes, mesh)]
    for before, after in zip(works, changed, strict=True):
        old, new = (w.settings if isinstance(w, Training) else w.policy for w in (before, after))
        flags += [f"--config.{path}.{name}={getattr(new, name)}" for path in after.paths for name in _differ(old, new)]
    return Remedy(job, tuple(dict.fromkeys(flags)), max(o.total for o in outcomes), checked, topology)


def _differ(old: Any, new: Any) -> list[str]:
    return [f.name for f in dataclasses.fields(new) if getattr(old, f.name) != getattr(new, f.name)]


def refuse(outcomes: Sequence[Outcome]) -> None:
    """Raises InputError if anything does not fit."""
    failing = [outcome.work.title for outcome in outcomes if not outcome.fits]
    if failing:
        raise InputError(
            f"config.plan.topology: {', '.join(failing)} would not fit; change what the plan says, or choose another "
            "topology"
        )
