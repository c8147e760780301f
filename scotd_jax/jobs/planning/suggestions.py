"""Suggests settings for jobs that do not fit: first another mesh, then smaller batches, then other hardware.

Candidates are estimated in the order of least change: `mesh.fsdp`, which shards parameters and optimizer state,
`mesh.tensor`, then micro-batches, remat and smaller batches of questions. The first that fits is compiled if possible.
All workloads of a job share one mesh.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from scotd_jax import config as c
from scotd_jax.distributed import topologies
from scotd_jax.distributed.chips import CHIPS
from scotd_jax.distributed.topologies import Topology
from scotd_jax.errors import InputError
from scotd_jax.jobs.planning.analysis import Analyzer, WorkloadAnalysis
from scotd_jax.jobs.planning.workloads import TrainingWorkload, Workload
from scotd_jax.sampling.batch_sizes import MIN_SLOTS

MAX_COMPILED = 3  # maximum number of compiled candidates; each takes about as long as the plan itself
MEMORY_SHARE = 0.95  # share of the usable memory that a suggestion may use
# Changes of the training settings, in order: (factor of the number of micro-batches, whether to use full remat, which
# costs a third of the time). Step i halves the batch size of generation i times.
_TRAINING_STEPS = ((2, False), (1, True), (2, True), (4, True), (8, True), (16, True), (32, True))


@dataclasses.dataclass(frozen=True)
class Suggestion:
    """Settings with which a job fits.

    Attributes:
      job: the job.
      flags: flags of the command line.
      total: bytes per chip of the largest program.
      compiled: whether the total is from compiled programs; else it is estimated.
      topology: another topology; "" for the planned one.
    """

    job: str
    flags: tuple[str, ...]
    total: int
    compiled: bool
    topology: str = ""


@dataclasses.dataclass(frozen=True)
class _Candidate:
    """A mesh and the changed workloads of a job."""

    mesh: c.Mesh
    workloads: list[Workload]


def find_suggestion(analyzer: Analyzer, workloads: Sequence[Workload], sizes: c.Mesh) -> Suggestion | None:
    """Returns the smallest change that makes all workloads of one job fit, or None if they fit on no known topology.

    Args:
      analyzer: analyzer of the planned topology.
      workloads: the workloads of the job.
      sizes: the mesh that does not fit.
    """
    compiled_candidates = 0
    for candidate in _candidates(analyzer.topology, workloads, sizes):
        analyses = [analyzer.analyze(workload, candidate.mesh, compile=False) for workload in candidate.workloads]
        if not all(map(_fits_with_margin, analyses)):
            continue
        can_compile = not analyzer.compile_obstacle
        if can_compile:
            if compiled_candidates == MAX_COMPILED:
                break
            compiled_candidates += 1
            analyses = [analyzer.analyze(workload, candidate.mesh, compile=True) for workload in candidate.workloads]
            if not all(map(_fits_with_margin, analyses)):
                continue
        return _suggestion(workloads, sizes, candidate, analyses, compiled=can_compile)
    return _larger_hardware(analyzer, workloads, sizes)


def raise_if_too_large(analyses: Sequence[WorkloadAnalysis]) -> None:
    """Raises InputError if a workload does not fit."""
    failing = [analysis.workload.title for analysis in analyses if not analysis.fits]
    if failing:
        raise InputError(
            f"config.plan.topology: {', '.join(failing)} would not fit; use the settings that the plan suggests, or "
            "choose another topology"
        )


def _larger_hardware(analyzer: Analyzer, workloads: Sequence[Workload], sizes: c.Mesh) -> Suggestion | None:
    """The first fit, by estimate, among larger slices of the same chip, then among chips with more memory."""
    own = analyzer.topology.chip
    others = [chip for chip in CHIPS.values() if chip.platform == own.platform and chip.usable > own.usable]
    for chip in (own, *sorted(others, key=lambda chip: chip.usable)):
        for count in topologies.slice_sizes(chip):
            if chip is own and count <= analyzer.topology.chips:
                continue
            topology = topologies.make_topology(chip, count)
            for candidate in _candidates(topology, workloads, c.Mesh(), coarse=True):
                analyses = [
                    analyzer.analyze(workload, candidate.mesh, compile=False, topology=topology)
                    for workload in candidate.workloads
                ]
                if all(map(_fits_with_margin, analyses)):
                    return _suggestion(workloads, sizes, candidate, analyses, topology=topology.name)
    return None


def _candidates(
    topology: Topology, workloads: Sequence[Workload], sizes: c.Mesh, coarse: bool = False
) -> Iterator[_Candidate]:
    """Yields candidates from the smallest change to the largest: for each change of settings, all meshes.

    With `coarse`, yields only meshes with the smallest and largest axes, and keeps the settings.
    """
    trains = any(isinstance(workload, TrainingWorkload) for workload in workloads)
    for step in range(1 if coarse else 1 + len(_TRAINING_STEPS)):
        reduced = [_reduced(workload, step) for workload in workloads]
        changed = [workload for workload in reduced if workload is not None]
        if len(changed) < len(reduced):
            return
        for tensor in _doublings(max(1, sizes.tensor), topology.per_host, coarse):
            # On one host, generation does not gather parameters for every token unless the config sets fsdp.
            maximum = topology.chips // tensor if topology.hosts > 1 or trains else max(1, sizes.fsdp)
            # Try larger fsdp first, from the config's upwards. Smaller fsdp helps if it leaves chips to `tensor`, or if
            # the batch is not divisible by larger fsdp.
            for fsdp in sorted(_doublings(1, maximum, coarse), key=lambda size: (size < sizes.fsdp, size)):
                yield _Candidate(c.Mesh(fsdp=fsdp, tensor=tensor), changed)


def _fits_with_margin(analysis: WorkloadAnalysis) -> bool:
    return analysis.fits and analysis.total <= MEMORY_SHARE * analysis.usable


def _doublings(first: int, last: int, coarse: bool) -> list[int]:
    """Powers of two times `first` up to `last`; with `coarse`, only the smallest and the largest."""
    sizes = [first * 2**i for i in range(16) if first * 2**i <= last]
    return sizes[:: max(1, len(sizes) - 1)] if coarse else sizes


def _reduced(workload: Workload, step: int) -> Workload | None:
    """The workload with smaller batches after `step` changes, or None if they cannot be split any further."""
    if step == 0:
        return workload
    if isinstance(workload, TrainingWorkload):
        factor, remat = _TRAINING_STEPS[step - 1]
        settings = workload.settings
        microbatches = settings.microbatches * factor
        if microbatches > settings.batch_size:
            return None
        settings = dataclasses.replace(settings, microbatches=microbatches, remat="full" if remat else settings.remat)
        return dataclasses.replace(workload, settings=settings)
    batch_size = max(1, (workload.policy.batch_size or max(1, MIN_SLOTS // workload.policy.n)) // 2**step)
    return dataclasses.replace(workload, policy=dataclasses.replace(workload.policy, batch_size=batch_size))


def _suggestion(
    workloads: Sequence[Workload],
    sizes: c.Mesh,
    candidate: _Candidate,
    analyses: Sequence[WorkloadAnalysis],
    *,
    compiled: bool = False,
    topology: str = "",
) -> Suggestion:
    flags = [f"--config.mesh.{axis}={getattr(candidate.mesh, axis)}" for axis in _changed_fields(sizes, candidate.mesh)]
    for before, after in zip(workloads, candidate.workloads, strict=True):
        old, new = (w.settings if isinstance(w, TrainingWorkload) else w.policy for w in (before, after))
        flags += [
            f"--config.{path}.{name}={getattr(new, name)}"
            for path in after.config_paths
            for name in _changed_fields(old, new)
        ]
    total = max(analysis.total for analysis in analyses)
    return Suggestion(workloads[0].job, tuple(dict.fromkeys(flags)), total, compiled, topology)


def _changed_fields(old: Any, new: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(new) if getattr(old, field.name) != getattr(new, field.name)]
