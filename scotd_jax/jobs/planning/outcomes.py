"""One work on one topology and mesh: its programs, what else lies on the chips, and whether that fits."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AbstractMesh

from scotd_jax import config as c
from scotd_jax.distributed import sharding, topologies
from scotd_jax.distributed.chips import GIB
from scotd_jax.distributed.mesh import local_mesh_sizes, make_abstract_mesh, make_mesh
from scotd_jax.distributed.topologies import Topology
from scotd_jax.errors import SizesError
from scotd_jax.jobs.planning.compiling import compiled
from scotd_jax.jobs.planning.estimates import PARTS, Program, by_layers, estimated
from scotd_jax.jobs.planning.lowered_programs import bytes_of, model_of, placed, training_call
from scotd_jax.jobs.planning.workloads import Speaking, Training, Work, program_of
from scotd_jax.progress import format_seconds
from scotd_jax.sampling.decode_loop import cast_for_inference


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
        self.topology, self.reason = topology, topologies.compile_obstacle(topology)
        self._layers, self._log = layers, log
        self._compiled: dict[Any, list[Program]] = {}
        self._factors: dict[Any, float] = {}

    @property
    def platform(self) -> str:
        return self.topology.chip.platform

    def look(self, work: Work, sizes: c.Mesh, *, compile: bool, topology: Topology | None = None) -> Outcome:
        """Compiled, or by arithmetic, there or on another topology. Raises InputError on settings that fit nowhere."""
        topology = topology or self.topology
        try:
            if compile and not self.reason:
                programs = self._compile(work, sizes)
            else:
                programs = self._estimate(work, sizes, topology)
            beside = _beside(work, sizes, topology)
            whole = [dataclasses.replace(each, bytes={**each.bytes, "beside": beside}) for each in programs]
            if isinstance(work, Speaking) and not work.training:
                whole.insert(0, _loading(work, sizes, topology))
        except SizesError as error:
            return Outcome(work, sizes, (), topology.chip.usable, str(error))
        return Outcome(work, sizes, tuple(whole), topology.chip.usable)

    def _compile(self, work: Work, sizes: c.Mesh) -> list[Program]:
        key = program_of(work), sizes
        if key not in self._compiled:
            begun = time.monotonic()
            where, own = _where(work, sizes, self.topology)
            mesh = make_mesh(own, topologies.described_devices(where))
            self._compiled[key] = compiled(work, mesh, self.platform, self._layers)
            for found, guess in zip(self._compiled[key], estimated(work, mesh, self.platform), strict=True):
                needed = found.bytes["temporaries"] + found.bytes["code"]
                self._factors[_kind(work), found.name] = needed / max(1, guess.bytes["temporaries"])
            sizes_said = ", ".join(f"{p.name} {p.total / GIB:.2f} GiB" for p in self._compiled[key])
            took = format_seconds(time.monotonic() - begun)
            self._log(f"  compiled {work.title} ({written(sizes)}) in {took}: {sizes_said}")
        return self._compiled[key]

    def _estimate(self, work: Work, sizes: c.Mesh, topology: Topology) -> list[Program]:
        where, own = _where(work, sizes, topology)
        mesh = make_abstract_mesh(own, where.chips)
        programs = []
        for each in estimated(work, mesh, topology.chip.platform):
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
    """The devices of a program and their mesh: all, or for speaking those of one host (jobs/context.py)."""
    if isinstance(work, Training) or topology.hosts == 1:
        return topology, sizes
    return topology.host, local_mesh_sizes(sizes, topology.chips, topology.per_host)


def mesh_of(work: Work, sizes: c.Mesh, topology: Topology) -> AbstractMesh:
    """The sizes of the mesh on which a work is computed."""
    where, own = _where(work, sizes, topology)
    return make_abstract_mesh(own, where.chips)


def _beside(work: Work, sizes: c.Mesh, topology: Topology) -> int:
    """Bytes on a chip while a speaker's programs run that are none of their arguments: the state of a training that
    waits, less what its speaker speaks with. With LoRA `Programs.combined` has made all parameters once more."""
    if isinstance(work, Training) or not work.training:
        return 0
    training = Training(work.names, (), work.architecture, work.precision, work.training, (("train", 1.0),), 8, 1, 8, 1)
    mesh = make_abstract_mesh(sizes, topology.chips)

    def counted(layers: int) -> dict[str, dict[str, int]]:
        held = training_call(training, mesh, topology.chip.platform, layers).held
        model = model_of(work, topology.chip.platform, layers)
        abstract = model.abstract()
        params = placed(abstract, sharding.param_shardings(mesh, model.axes(), abstract))
        left = [params if topology.hosts > 1 else _sources(work, params), held["optimizer"]]
        return {"": {"bytes": bytes_of(left) + (bytes_of(held["weights"]) if work.training.lora.rank else 0)}}

    return round(by_layers(training, counted)[""]["bytes"])


def _loading(work: Speaking, sizes: c.Mesh, topology: Topology) -> Program:
    """The moment in which a speaker's weights lie beside what they are made of: parameters over all devices, of several
    hosts (jobs/context.py), or in float32."""
    own, all_over = mesh_of(work, sizes, topology), make_abstract_mesh(sizes, topology.chips)

    def counted(layers: int) -> dict[str, dict[str, int]]:
        model = model_of(work, topology.chip.platform, layers)
        abstract = model.abstract()
        spoken = jax.eval_shape(lambda params: cast_for_inference(model, params), abstract)
        weights = bytes_of(placed(spoken, sharding.param_shardings(own, model.axes(), spoken)))
        first = placed(spoken if work.as_read else abstract, sharding.param_shardings(all_over, model.axes(), abstract))
        if topology.hosts == 1:
            first = [] if work.as_read else _sources(work, first)
        return {"": dict.fromkeys(PARTS, 0) | {"weights": weights, "beside": bytes_of(first)}}

    return Program("load", {part: round(size) for part, size in by_layers(work, counted)[""].items()}, 0.0)


def _sources(work: Work, params: Any) -> list[Any]:
    """The parameters that a speaker has a second time, in the dtype of products (decode_loop.cast_for_inference)."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return [leaf for path, leaf in leaves if path[-1].key == "kernel" and work.precision != "float32"]


def written(sizes: c.Mesh) -> str:
    return f"data={sizes.data}, fsdp={sizes.fsdp}, tensor={sizes.tensor}"
