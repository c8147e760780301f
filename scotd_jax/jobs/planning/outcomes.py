"""One work on one topology and mesh: its programs, what else lies on the chips, and whether that fits."""

import dataclasses
from collections.abc import Callable
from typing import Any

from jax.sharding import AbstractMesh, Mesh

from scotd_jax import config as c
from scotd_jax.distributed import sharding, topologies
from scotd_jax.distributed.mesh import abstract_mesh, make_mesh, own_sizes
from scotd_jax.distributed.topologies import Topology
from scotd_jax.errors import InputError
from scotd_jax.jobs.planning import measure
from scotd_jax.jobs.planning.calls import bytes_of, model_of, placed, training_call
from scotd_jax.jobs.planning.measure import Program
from scotd_jax.jobs.planning.works import Training, Work, program_of


@dataclasses.dataclass(frozen=True)
class Outcome:
    """`problem` is why there are no programs: sizes that do not fit each other."""

    work: Work
    mesh: c.Mesh
    programs: tuple[Program, ...]
    usable: int
    problem: str = ""

    @property
    def fits(self) -> bool:
        return not self.problem and self.total <= self.usable

    @property
    def total(self) -> int:
        """Bytes per chip of the largest program."""
        return max((program.total for program in self.programs), default=0)


class Planner:
    """Looks at works on one topology; `compiles` is False where that is not possible.

    What XLA needed where it compiled tells how far arithmetic is off, and corrects it for other meshes.
    """

    def __init__(self, topology: Topology, layers: int, log: Callable[[str], None]):
        self.topology, self.reason = topology, topologies.can_compile(topology)
        self._layers, self._log = layers, log
        self._compiled: dict[Any, list[Program]] = {}
        self._factors: dict[Any, float] = {}

    @property
    def platform(self) -> str:
        return self.topology.chip.platform

    def look(self, work: Work, sizes: c.Mesh, *, compile: bool, topology: Topology | None = None) -> Outcome:
        """Compiled, or by arithmetic, there or on another topology."""
        topology = topology or self.topology
        try:
            if compile and not self.reason:
                programs = self._compile(work, sizes)
            else:
                programs = self._estimate(work, sizes, topology)
            beside = _beside(work, sizes, topology)
        except InputError as error:
            return Outcome(work, sizes, (), topology.chip.usable, str(error))
        whole = [dataclasses.replace(each, bytes={**each.bytes, "beside": beside}) for each in programs]
        return Outcome(work, sizes, tuple(whole), topology.chip.usable)

    def _compile(self, work: Work, sizes: c.Mesh) -> list[Program]:
        key = program_of(work), sizes
        if key not in self._compiled:
            self._log(f"  compiling {work.title} ({written(sizes)})")
            where, own = _where(work, sizes, self.topology)
            mesh = make_mesh(own, topologies.devices(where))
            self._compiled[key] = measure.compiled(work, mesh, self.platform, self._layers)
            for found, guess in zip(self._compiled[key], measure.estimated(work, mesh, self.platform), strict=True):
                needed = found.bytes["temporaries"] + found.bytes["code"]
                self._factors[_kind(work), found.name] = needed / max(1, guess.bytes["temporaries"])
        return self._compiled[key]

    def _estimate(self, work: Work, sizes: c.Mesh, topology: Topology) -> list[Program]:
        where, own = _where(work, sizes, topology)
        mesh = abstract_mesh(own, where.chips)
        programs = []
        for each in measure.estimated(work, mesh, topology.chip.platform):
            factor = self._factors.get((_kind(work), each.name), 1.0)
            programs.append(
                dataclasses.replace(
                    each, bytes={**each.bytes, "temporaries": round(factor * each.bytes["temporaries"])}
                )
            )
        return programs


def _kind(work: Work) -> Any:
    """Works for which arithmetic is off by the same factor."""
    return type(work), work.architecture, getattr(work, "policy", None) and work.policy.n


def _where(work: Work, sizes: c.Mesh, topology: Topology) -> tuple[Topology, c.Mesh]:
    """The devices of a program and their mesh: all, or for speaking those of one host (jobs/run.py)."""
    if isinstance(work, Training) or topology.hosts == 1:
        return topology, sizes
    return topology.host, own_sizes(sizes, topology.per_host)


def mesh_of(work: Work, sizes: c.Mesh, topology: Topology) -> Mesh | AbstractMesh:
    where, own = _where(work, sizes, topology)
    return abstract_mesh(own, where.chips)


def _beside(work: Work, sizes: c.Mesh, topology: Topology) -> int:
    """Bytes that lie on a chip while a speaker's programs run, and are none of their arguments."""
    if isinstance(work, Training) or not work.beside:
        return 0
    platform, mesh = topology.chip.platform, mesh_of(work, sizes, topology)
    model = model_of(work, platform)
    abstract = model.abstract()
    params = placed(abstract, sharding.param_shardings(mesh, model.axes(), abstract))
    sources = bytes_of(_kernels(params)) if work.precision != "float32" else 0
    if work.beside == "parameters":
        return sources
    training = Training((), (), work.architecture, work.precision, work.training, (("train", 1.0),), 8, 1, 8, 1)
    held = training_call(training, abstract_mesh(sizes, topology.chips), platform).held
    own = 0 if topology.hosts == 1 else bytes_of(held["weights"])
    return sources + own + bytes_of(held["optimizer"])


def _kernels(params: Any) -> list[Any]:
    """What a speaker has a second time, in the dtype of products (engine.speaking)."""
    if isinstance(params, dict):
        return [leaf for key, value in params.items() for leaf in ([value] if key == "kernel" else _kernels(value))]
    return []


def written(sizes: c.Mesh) -> str:
    return f"data={sizes.data}, fsdp={sizes.fsdp}, tensor={sizes.tensor}"
