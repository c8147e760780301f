"""Hardware by its name ("v5e-16", "v5p-128", "h200-8"), whether or not any of it is here.

Google counts chips of v5e and v6e and TensorCores of v4 and v5p, of which a chip has two: "v5p-128" are 64 chips. JAX
sees one device per chip in both cases, so a mesh counts chips. GPUs are counted as they are.

With libtpu installed, XLA compiles for a TPU that is not attached. "cpu-8" are eight CPU devices of this process, to
try everything around that without.
"""

import dataclasses
import difflib
import importlib.util
import math
import os
import re
from typing import Literal

import jax

from scotd_jax.distributed.chips import peak_flops
from scotd_jax.errors import InputError

GIB = 2**30
TERA = 1e12
GIGA = 1e9
GPU_SHARE = "XLA_CLIENT_MEM_FRACTION"


@dataclasses.dataclass(frozen=True)
class Chip:
    """What one device can hold and do. `usable` is what of its memory a program may take: on TPUs what XLA says when
    it runs out (libtpu 0.0.42), on GPUs the share that JAX takes (`gpu_share`)."""

    name: str
    platform: Literal["tpu", "cuda", "cpu"]
    usable: int  # bytes
    peak: float  # FLOP/s of dense bfloat16 products (peaks.py)
    bandwidth: float  # bytes/s of its memory
    cores: int = 1  # of a chip, where the name of a topology counts these


def _tpu(name: str, kind: str, gibibytes: float, bandwidth: int, cores: int = 1) -> Chip:
    return Chip(name, "tpu", int(gibibytes * GIB), peak_flops(kind), bandwidth * GIGA, cores)


def gpu_share() -> float:
    """The part of a GPU's memory that JAX takes for arrays: three quarters, unless the environment says otherwise."""
    return float(os.environ.get(GPU_SHARE) or 0.75)


def _gpu(name: str, gigabytes: int, bandwidth: int) -> Chip:
    return Chip(
        name, "cuda", int(gpu_share() * gigabytes * GIGA), peak_flops(f"NVIDIA {name.upper()}"), bandwidth * GIGA
    )


# Bandwidth as in the makers' data sheets (cloud.google.com/tpu/docs, nvidia.com).
CHIPS = {
    chip.name: chip
    for chip in (
        _tpu("v4", "TPU v4", 30.75, 1228, cores=2),
        _tpu("v5e", "TPU v5e", 15.75, 819),
        _tpu("v5p", "TPU v5p", 95.74, 2765, cores=2),
        _tpu("v6e", "TPU v6e", 31.25, 1640),
        _gpu("l4", 24, 300),
        _gpu("a100", 80, 2039),
        _gpu("h100", 80, 3350),
        _gpu("h200", 141, 4800),
        _gpu("b200", 180, 8000),
        Chip("cpu", "cpu", 4 * GIB, 0.1 * TERA, 20 * GIGA),  # of no machine in particular
    )
}
# Shapes that are rented, by number of chips.
_FLAT = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
_CUBES = {4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8", 256: "4x8x8", 512: "8x8x8"}
_GPUS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_LIBTPU = {  # nothing is attached: do not look for it, do not lock it, do not tell about it
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """`chips` devices of one kind, `per_host` of them on each machine; `shape` is that of a TPU slice."""

    name: str
    chip: Chip
    chips: int
    per_host: int
    shape: str = ""

    @property
    def hosts(self) -> int:
        return self.chips // self.per_host

    @property
    def host(self) -> "Topology":
        """One machine of it."""
        shape = _shapes(self.chip).get(self.per_host, "") if self.chip.platform == "tpu" else ""
        return dataclasses.replace(self, chips=self.per_host, shape=shape)

    def describe(self) -> str:
        """For example "v5p-128: 64 v5p chips (4x4x4; the name counts TensorCores, 2 per chip) on 16 hosts"."""
        notes = [self.shape] * bool(self.shape)
        if self.chip.cores > 1:
            notes.append(f"the name counts TensorCores, {self.chip.cores} per chip")
        what = f"{self.chips} {self.chip.name} {'chips' if self.chip.platform == 'tpu' else 'devices'}"
        where = "1 host" if self.hosts == 1 else f"{self.hosts} hosts"
        return f"{self.name}: {what}{f' ({chr(59).join(notes)})' if notes else ''} on {where}".replace(";", "; ")


def parse(name: str, where: str = "topology") -> Topology:
    """Raises InputError on a name that nothing rented has, with the nearest ones."""
    found = re.fullmatch(r"([a-z][a-z0-9]*)-(\d+)", name)
    kind, count = (found[1], int(found[2])) if found else (name.partition("-")[0], 0)
    if kind not in CHIPS:
        near = difflib.get_close_matches(kind, CHIPS, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(CHIPS)}"
        raise InputError(f"{where}: {name!r} is unknown; expected KIND-NUMBER such as v5e-16 or h200-8; {hint}")
    chip = CHIPS[kind]
    chips, rest = divmod(count, chip.cores)
    sizes = sizes_of(chip)
    if rest or chips not in sizes:
        nearest = sorted(sizes, key=lambda size: abs(math.log(size * chip.cores / max(count, 1))))[:2]
        names = " or ".join(f"{kind}-{size * chip.cores}" for size in sorted(nearest))
        counted = f" ({kind} counts TensorCores, {chip.cores} per chip)" if chip.cores > 1 else ""
        raise InputError(f"{where}: there is no {name!r}{counted}; did you mean {names}?")
    return of(chip, chips)


def of(chip: Chip, chips: int) -> Topology:
    """The topology of so many chips."""
    if chip.platform == "tpu":
        per_host = min(chips, 4 if chip.cores > 1 or chips > 8 else 8)
    else:
        per_host = min(chips, 8)
    shape = _shapes(chip).get(chips, "") if chip.platform == "tpu" else ""
    return Topology(f"{chip.name}-{chips * chip.cores}", chip, chips, per_host, shape)


def sizes_of(chip: Chip) -> tuple[int, ...]:
    """Numbers of chips that there are."""
    if chip.platform == "tpu":
        return tuple(_shapes(chip))
    return tuple(range(1, 9)) if chip.platform == "cpu" else _GPUS


def _shapes(chip: Chip) -> dict[int, str]:
    return _CUBES if chip.cores > 1 else _FLAT


def can_compile(topology: Topology) -> str:
    """ "" where programs can be compiled for it here, else why not."""
    if topology.chip.platform == "cuda":
        return "XLA compiles for GPUs only where there are some"
    if topology.chip.platform == "tpu" and importlib.util.find_spec("libtpu") is None:
        return "libtpu is not installed (pip install -c constraints.txt -e '.[tpu]', best in an environment of its own)"
    return ""


def stay_on_cpu(devices: int) -> None:
    """This process uses no accelerator, whatever is attached, and has so many CPU devices. Before any device is used;
    afterwards it changes nothing."""
    for name, value in _LIBTPU.items():
        os.environ.setdefault(name, value)
    jax.config.update("jax_platforms", "cpu")
    if jax.config.jax_num_cpu_devices < devices:
        try:
            jax.config.update("jax_num_cpu_devices", devices)
        except RuntimeError as error:  # devices are in use already
            raise InputError(f"topology cpu-{devices}: this process has fewer CPU devices ({error})") from None


def devices(topology: Topology) -> list[jax.Device]:
    """Descriptions of its devices, enough for a mesh and a compiler. Nothing can be placed or run on those of a TPU.

    Raises InputError where `can_compile` has a reason, and if libtpu refuses the topology.
    """
    if reason := can_compile(topology):
        raise InputError(f"{topology.name}: {reason}")
    if topology.chip.platform == "cpu":
        if len(jax.devices("cpu")) < topology.chips:
            raise InputError(f"{topology.name}: this process has {len(jax.devices('cpu'))} CPU devices")
        return jax.devices("cpu")[: topology.chips]
    from jax.experimental import topologies

    bounds = [int(size) for size in topology.host.shape.split("x")]
    options: dict[str, object] = {"chips_per_host_bounds": [*bounds, 1][:3]}
    if topology.chip.name == "v4":
        options["chip_config_name"] = "megacore"  # one device per chip, which newer ones are anyway
    try:
        found = topologies.get_topology_desc(f"{topology.chip.name}:{topology.shape}", platform="tpu", **options)
    except jax.errors.JaxRuntimeError as error:
        raise InputError(f"{topology.name}: libtpu does not describe it: {error}") from None
    return list(found.devices)
