"""NVIDIA GPUs that may be absent: their memory and bandwidth, and the descriptions for which XLA compiles."""

import dataclasses
import functools
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path

MIB = 2**20
# XLA schedules and rematerializes for a memory limit. On an attached GPU this is the pool that JAX allocates, but for a
# described GPU XLA uses 80 % of the memory in the description.
_LIMIT_SHARE = 0.8


@dataclasses.dataclass(frozen=True)
class GpuTarget:
    """One kind of GPU, from gpu_targets.toml, which describes the fields.

    Attributes:
      name: the KIND in topology names, for example "h200" in "h200-8".
      device_kind: `jax.Device.device_kind`.
      memory: bytes of device memory.
      bandwidth: bytes/s of device memory.
      compute_capability: for example "9.0a".
      xla: fields of XLA's GpuDeviceInfoProto.
    """

    name: str
    device_kind: str
    memory: int
    bandwidth: float
    compute_capability: str
    xla: Mapping[str, int | float | str]

    def describe(self, usable: int) -> str:
        """Returns the description for XLA: a GpuTargetConfigProto in the text format.

        Args:
          usable: bytes of device memory that a program can use.
        """
        major, minor = self.compute_capability.rstrip("a").split(".")
        extension = "ACCELERATED_FEATURES" if self.compute_capability.endswith("a") else "NONE"
        dnn_major, dnn_minor, dnn_patch = str(self.xla["dnn_version"]).split(".")
        fields = {
            **self.xla,
            "name": self.device_kind,
            "memory_bandwidth": round(self.bandwidth),
            "device_memory_size": round(usable / _LIMIT_SHARE),
        }
        return f"""
            gpu_device_info {{
              {" ".join(f"{name}: {json.dumps(value)}" for name, value in fields.items())}
              cuda_compute_capability {{ major: {major} minor: {minor} feature_extension: {extension} }}
            }}
            platform_name: "CUDA"
            dnn_version_info {{ major: {dnn_major} minor: {dnn_minor} patch: {dnn_patch} }}
            device_description_str: {json.dumps(self.device_kind)}
        """


@functools.cache
def gpu_targets() -> Mapping[str, GpuTarget]:
    """Returns all targets by name, from the smallest memory to the largest."""
    data = tomllib.loads(Path(__file__).with_name("gpu_targets.toml").read_text())
    return {
        name: GpuTarget(
            name=name,
            device_kind=entry["device_kind"],
            memory=entry["memory_mib"] * MIB,
            bandwidth=entry["bandwidth_gb"] * 1e9,
            compute_capability=entry["compute_capability"],
            xla=data["xla"] | entry["xla"],
        )
        for name, entry in data["gpus"].items()
    }
