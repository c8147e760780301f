"""Analysis of a workload on one topology and mesh: costs of its programs, and whether they fit into memory."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

from jax.sharding import AbstractMesh

from scotd_jax import config as c
from scotd_jax.distributed import topologies
from scotd_jax.distributed.chips import GIB
from scotd_jax.distributed.mesh import group_mesh_sizes, make_abstract_mesh, make_mesh
from scotd_jax.distributed.topologies import Topology
from scotd_jax.errors import SizesError
from scotd_jax.jobs.planning.compilation import compile_programs
from scotd_jax.jobs.planning.estimates import ProgramCost, estimate_programs
from scotd_jax.jobs.planning.resident_memory import loading_cost, paused_training_bytes
from scotd_jax.jobs.planning.workloads import GenerationWorkload, TrainingWorkload, Workload
from scotd_jax.progress import format_seconds


@dataclasses.dataclass(frozen=True)
class WorkloadAnalysis:
    """Costs of a workload.

    Attributes:
      workload: the workload.
      mesh: mesh of the run.
      programs: costs of the programs; empty if there is a problem.
      usable: usable bytes per chip.
      problem: why the batch cannot be sharded over the mesh; "" if it can.
    """

    workload: Workload
    mesh: c.Mesh
    programs: tuple[ProgramCost, ...]
    usable: int
    problem: str = ""

    @property
    def fits(self) -> bool:
        return not self.problem and self.total <= self.usable

    @property
    def total(self) -> int:
        """Bytes per chip of the largest program."""
        return max((program.total for program in self.programs), default=0)


class Analyzer:
    """Analyzes workloads on a topology and caches the costs of compiled programs.

    The ratio of compiled to estimated temporary memory corrects later estimates of the same model.

    Attributes:
      topology: the topology.
      compile_obstacle: why programs cannot be compiled for it; "" if they can.
    """

    def __init__(self, topology: Topology, max_layers: int, log: Callable[[str], None]):
        """See `compile_programs` for `max_layers`; `log` prints a progress line."""
        self.topology, self.compile_obstacle = topology, topologies.compile_obstacle(topology)
        self._max_layers, self._log = max_layers, log
        self._compiled: dict[Any, list[ProgramCost]] = {}
        self._corrections: dict[Any, float] = {}

    def analyze(
        self, workload: Workload, sizes: c.Mesh, *, compile: bool, topology: Topology | None = None
    ) -> WorkloadAnalysis:
        """Returns the costs of a workload.

        Args:
          workload: the workload.
          sizes: mesh of the run.
          compile: compile the programs if possible; else estimate their costs.
          topology: another topology, for estimates only.

        Raises:
          InputError: on training settings that are invalid on every mesh.
        """
        topology = topology or self.topology
        usable = topology.chip.usable
        try:
            if compile and not self.compile_obstacle:
                programs = self._compile(workload, sizes)
            else:
                programs = self._estimate(workload, sizes, topology)
            resident = paused_training_bytes(workload, sizes, topology)
            programs = [dataclasses.replace(p, bytes={**p.bytes, "resident": resident}) for p in programs]
            if isinstance(workload, GenerationWorkload) and not workload.paused_training:
                programs.insert(0, loading_cost(workload, workload_mesh(workload, sizes, topology), sizes, topology))
        except SizesError as error:
            return WorkloadAnalysis(workload, sizes, (), usable, str(error))
        return WorkloadAnalysis(workload, sizes, tuple(programs), usable)

    def _compile(self, workload: Workload, sizes: c.Mesh) -> list[ProgramCost]:
        key = workload.canonical(), sizes
        if key not in self._compiled:
            start = time.monotonic()
            devices, own_sizes = _program_devices(workload, sizes, self.topology)
            mesh, platform = make_mesh(own_sizes, topologies.described_devices(devices)), self.topology.chip.platform
            programs = compile_programs(workload, mesh, platform, self._max_layers)
            self._compiled[key] = programs
            for compiled, estimate in zip(programs, estimate_programs(workload, mesh, platform), strict=True):
                needed = compiled.bytes["temporaries"] + compiled.bytes["code"]
                correction = needed / max(1, estimate.bytes["temporaries"])
                self._corrections[_correction_key(workload, compiled.name)] = correction
            totals = ", ".join(f"{program.name} {program.total / GIB:.2f} GiB" for program in programs)
            seconds = format_seconds(time.monotonic() - start)
            self._log(f"  compiled {workload.title} ({describe_sizes(sizes)}) in {seconds}: {totals}")
        return self._compiled[key]

    def _estimate(self, workload: Workload, sizes: c.Mesh, topology: Topology) -> list[ProgramCost]:
        programs = []
        mesh = workload_mesh(workload, sizes, topology)
        for program in estimate_programs(workload, mesh, topology.chip.platform):
            correction = self._corrections.get(_correction_key(workload, program.name), 1.0)
            temporaries = round(correction * program.bytes["temporaries"])
            programs.append(dataclasses.replace(program, bytes={**program.bytes, "temporaries": temporaries}))
        return programs


def workload_mesh(workload: Workload, sizes: c.Mesh, topology: Topology) -> AbstractMesh:
    """Returns the mesh of a workload: the mesh of the run for training, that of a data group for generation."""
    devices, own_sizes = _program_devices(workload, sizes, topology)
    return make_abstract_mesh(own_sizes, devices.chips)


def describe_sizes(sizes: c.Mesh) -> str:
    """Formats the sizes of a mesh."""
    return f"data={sizes.data}, fsdp={sizes.fsdp}, tensor={sizes.tensor}"


def _program_devices(workload: Workload, sizes: c.Mesh, topology: Topology) -> tuple[Topology, c.Mesh]:
    """Devices and mesh sizes of a workload: all for training, those of one data group for generation."""
    if isinstance(workload, TrainingWorkload):
        return topology, sizes
    own_sizes = group_mesh_sizes(workload.sampling_mesh, sizes, topology.chips, topology.per_host)
    return topology.part(own_sizes.data * own_sizes.fsdp * own_sizes.tensor), own_sizes


def _correction_key(workload: Workload, program: str) -> Any:
    """Key of the ratio of compiled to estimated memory, which similar workloads share."""
    samples = workload.policy.n if isinstance(workload, GenerationWorkload) else 0
    return type(workload), workload.model_config, samples, program
