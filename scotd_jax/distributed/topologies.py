"""Topologies by name ("v5e-16", "v5p-128", "h200-8"). The hardware need not be attached.

Names follow Google Cloud: on v5e and v6e the number counts chips, on v4 and v5p TensorCores, two per chip, so "v5p-128"
has 64 chips. JAX exposes one device per chip in both cases, so meshes count chips. GPU names count GPUs.

XLA compiles for TPUs that are not attached if libtpu is installed, and for NVIDIA GPUs if JAX's CUDA plugin is, which
needs neither a driver nor CUDA's libraries for that. "cpu-8" stands for eight CPU devices of this process and lets the
same code run without an accelerator.
"""

import dataclasses
import importlib.util
import math
import os
import re

import jax

from scotd_jax.distributed.chips import CHIPS, Chip
from scotd_jax.distributed.gpu_targets import gpu_targets
from scotd_jax.errors import InputError, SizesError, did_you_mean

# Slices that Google Cloud offers, by number of chips: v5e and v6e are 2D tori, v4 and v5p 3D tori.
_SLICES_2D = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
_SLICES_3D = {4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8", 256: "4x8x8", 512: "8x8x8"}
_GPU_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_CUDA_PLUGINS = ("jax_plugins.xla_cuda13", "jax_plugins.xla_cuda12")  # of jax-cuda13-pjrt and jax-cuda12-pjrt
# For a process without an attached accelerator: libtpu neither queries the metadata server, nor takes its lock file,
# nor logs, and the CUDA plugin does not look for CUDA's libraries.
_ENVIRONMENT = {
    "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """A number of devices of one kind, on one or several hosts.

    Attributes:
      name: for example "v5e-16".
      chip: kind of device.
      chips: number of devices, each of them a `chip`.
      per_host: number of devices attached to each host.
      shape: shape of a TPU slice, for example "4x4"; "" on other platforms.
    """

    name: str
    chip: Chip
    chips: int
    per_host: int
    shape: str = ""

    @property
    def hosts(self) -> int:
        """Number of hosts."""
        return self.chips // self.per_host

    @property
    def host(self) -> "Topology":
        """The topology of a single host."""
        return self.part(self.per_host)

    def part(self, chips: int) -> "Topology":
        """Returns the topology of some of the hosts, with `chips` devices in all.

        Raises:
          SizesError: if TPUs are not connected in parts of this size.
        """
        if chips == self.chips:
            return self
        shape = _slices(self.chip).get(chips, "") if self.chip.platform == "tpu" else ""
        if self.chip.platform == "tpu" and not shape:
            raise SizesError(f"{self.name}: {chips} chips of it are no slice; there are {slice_sizes(self.chip)}")
        return dataclasses.replace(self, chips=chips, shape=shape)

    def describe(self) -> str:
        """Returns, e.g., "v5p-128: 64 v5p chips (4x4x4; the name counts TensorCores, 2 per chip) on 16 hosts"."""
        notes = [self.shape] if self.shape else []
        if self.chip.cores > 1:
            notes.append(f"the name counts TensorCores, {self.chip.cores} per chip")
        details = f" ({'; '.join(notes)})" if notes else ""
        unit = "chips" if self.chip.platform == "tpu" else "devices"
        hosts = "1 host" if self.hosts == 1 else f"{self.hosts} hosts"
        return f"{self.name}: {self.chips} {self.chip.name} {unit}{details} on {hosts}"


def parse_topology(name: str, where: str = "topology") -> Topology:
    """Returns the topology of that name.

    Args:
      name: KIND-NUMBER.
      where: the config key or flag that the error message names.

    Raises:
      InputError: if the kind is unknown or not offered in that size; the message names the nearest ones.
    """
    match = re.fullmatch(r"([a-z][a-z0-9]*(?:-\d+)?)-(\d+)", name)
    kind, count = (match[1], int(match[2])) if match else (name.partition("-")[0], 0)
    if kind not in CHIPS:
        sizes_of_kind = [name for name in CHIPS if name.startswith(f"{kind}-")]  # "a100" has "a100-80"
        hint = did_you_mean(kind, sizes_of_kind or CHIPS)
        raise InputError(f"{where}: {name!r} is unknown; expected KIND-NUMBER such as v5e-16 or h200-8; {hint}")
    chip = CHIPS[kind]
    chips, rest = divmod(count, chip.cores)
    sizes = slice_sizes(chip)
    if rest or chips not in sizes:
        nearest = sorted(sizes, key=lambda size: abs(math.log(size * chip.cores / max(count, 1))))[:2]
        names = " or ".join(f"{kind}-{size * chip.cores}" for size in sorted(nearest))
        note = f" ({kind} counts TensorCores, {chip.cores} per chip)" if chip.cores > 1 else ""
        raise InputError(f"{where}: there is no {name!r}{note}; did you mean {names}?")
    return make_topology(chip, chips)


def make_topology(chip: Chip, chips: int) -> Topology:
    """Returns the topology with `chips` devices of one kind."""
    if chip.platform == "tpu":
        per_host = min(chips, 4 if chip.cores > 1 or chips > 8 else 8)
        shape = _slices(chip).get(chips, "")
    else:
        per_host, shape = min(chips, 8), ""
    return Topology(f"{chip.name}-{chips * chip.cores}", chip, chips, per_host, shape)


def slice_sizes(chip: Chip) -> tuple[int, ...]:
    """Returns the sizes, in chips, of the topologies of one kind of device."""
    if chip.platform == "tpu":
        return tuple(_slices(chip))
    return tuple(range(1, 9)) if chip.platform == "cpu" else _GPU_COUNTS


def _slices(chip: Chip) -> dict[int, str]:
    return _SLICES_3D if chip.cores > 1 else _SLICES_2D


def compile_obstacle(topology: Topology) -> str:
    """Returns why programs cannot be compiled for a topology on this machine, or "" if they can."""
    advice = "(pip install -c constraints.txt -e '.[{}]', best in an environment of its own)"
    if topology.chip.platform == "cuda" and not any(map(_is_installed, _CUDA_PLUGINS)):
        return f"JAX's CUDA plugin is not installed {advice.format('gpu-plan')}"
    if topology.chip.platform == "tpu" and not _is_installed("libtpu"):
        return f"libtpu is not installed {advice.format('tpu')}"
    return ""


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package that contains it
        return False


def use_cpu_only(devices: int) -> None:
    """Restricts this process to `devices` CPU devices. Has no effect once a device has been used.

    Raises:
      InputError: if fewer CPU devices are in use already.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    jax.config.update("jax_platforms", "cpu")
    if jax.config.jax_num_cpu_devices < devices:  # pyrefly: ignore[missing-attribute]
        try:
            jax.config.update("jax_num_cpu_devices", devices)
        except RuntimeError as error:  # devices are in use already
            raise InputError(f"topology cpu-{devices}: this process has fewer CPU devices ({error})") from None


def described_devices(topology: Topology) -> list[jax.Device]:
    """Returns the devices of a topology, for meshes and for compilation.

    Devices of TPU and GPU topologies are descriptions only: they hold no arrays and run no programs.

    Raises:
      InputError: if `compile_obstacle` returns a reason, if this process has too few CPU devices, or if libtpu or the
        CUDA plugin rejects the topology.
    """
    if reason := compile_obstacle(topology):
        raise InputError(f"{topology.name}: {reason}")
    if topology.chip.platform == "cpu":
        if len(jax.devices("cpu")) < topology.chips:
            raise InputError(f"{topology.name}: this process has {len(jax.devices('cpu'))} CPU devices")
        return jax.devices("cpu")[: topology.chips]
    from jax.experimental import topologies

    platform = topology.chip.platform
    name, options = _tpu_description(topology) if platform == "tpu" else _gpu_description(topology)
    try:
        found = topologies.get_topology_desc(name, platform=platform, **options)
    except (jax.errors.JaxRuntimeError, RuntimeError) as error:
        raise InputError(f"{topology.name}: XLA cannot describe the topology: {error}") from None
    return list(found.devices)


def _tpu_description(topology: Topology) -> tuple[str, dict[str, object]]:
    """Name and options of a slice for libtpu."""
    bounds = [int(size) for size in topology.host.shape.split("x")]
    options: dict[str, object] = {"chips_per_host_bounds": [*bounds, 1][:3]}
    if topology.chip.name == "v4":
        options["chip_config_name"] = "megacore"  # one device per chip, as on newer TPUs
    return f"{topology.chip.name}:{topology.shape}", options


def _gpu_description(topology: Topology) -> tuple[str, dict[str, object]]:
    """Name and options of GPUs for the CUDA plugin."""
    target = gpu_targets()[topology.chip.name].describe(topology.chip.usable)
    # Partitions (domains of NVLink across hosts) x hosts x GPUs.
    return "", {"target_config": target, "topology": f"1x{topology.hosts}x{topology.per_host}"}
