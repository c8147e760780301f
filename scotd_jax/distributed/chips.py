"""Specifications of accelerators: peak FLOP/s and, for chips that `topologies.py` supports, memory and bandwidth.

Memory and bandwidth of GPUs are in gpu_targets.toml.

Peaks are for dense bfloat16 matmuls with float32 accumulation, as in the makers' data sheets
(cloud.google.com/tpu/docs, nvidia.com); the figures for 2:4 sparse matrices, twice as large, are not used. They are the
denominators of MFU at any precision. All figures are per device as JAX counts devices: on TPUs a chip, except on v2, v3
and 7x, where a chip is two devices.
"""

import dataclasses
import re
from typing import Literal

from scotd_jax.distributed.gpu_settings import gpu_memory_fraction
from scotd_jax.distributed.gpu_targets import gpu_targets

GIB = 2**30
TERA = 1e12
GIGA = 1e9


@dataclasses.dataclass(frozen=True)
class Chip:
    """One kind of device in a topology.

    Attributes:
      name: the KIND in topology names, for example "v5e" in "v5e-16".
      platform: XLA platform.
      memory: bytes of device memory. On TPUs the limit in XLA's out-of-memory message (libtpu 0.0.42).
      peak: peak FLOP/s.
      bandwidth: bytes/s of device memory.
      cores: TensorCores per chip where topology names count TensorCores, else 1.
    """

    name: str
    platform: Literal["tpu", "cuda", "cpu"]
    memory: int
    peak: float
    bandwidth: float
    cores: int = 1

    @property
    def usable(self) -> int:
        """Bytes of device memory that a program can use; on GPUs JAX's share of the memory at this moment."""
        return int(gpu_memory_fraction() * self.memory) if self.platform == "cuda" else self.memory


# TPUs: name, `device_kind`s, peak TFLOP/s, usable GiB, GB/s, cores. Without memory and bandwidth (None) a chip has no
# topologies.
_TPUS = (
    ("v2", ("TPU v2",), 22.5, None, None, 1),
    ("v3", ("TPU v3",), 61.5, None, None, 1),
    ("v4", ("TPU v4",), 275, 30.75, 1228, 2),
    ("v5e", ("TPU v5 lite", "TPU v5e"), 197, 15.75, 819, 1),
    ("v5p", ("TPU v5", "TPU v5p"), 459, 95.74, 2765, 2),
    ("v6e", ("TPU v6 lite", "TPU v6e"), 918, 31.25, 1640, 1),
    ("v7x", ("TPU7x",), 1153.5, None, None, 1),
)
# GPUs: words that the `device_kind` contains, peak TFLOP/s. The first row that matches is used.
_GPUS = (
    ("GB200", 2500),
    ("B200", 2250),
    ("GH200", 989.4),
    ("H200 NVL", 835.5),
    ("H200", 989.4),
    ("H100 NVL", 835.5),
    ("H100 PCIe", 756),
    ("H100", 989.4),
    ("H800", 989.4),
    ("A100", 312),
    ("A800", 312),
    ("A30", 165),
    ("A10", 125),
    ("A10G", 70),
    ("A40", 149.7),
    ("L40S", 362),
    ("L40", 181),
    ("L4", 121),
    ("MI300X", 1307.4),
)


def peak_flops(device_kind: str) -> float | None:
    """Returns the peak FLOP/s of one device.

    Args:
      device_kind: `jax.Device.device_kind`, for example "NVIDIA A100-SXM4-80GB" or "TPU v5 lite".

    Returns:
      None if unknown: CPUs, accelerators that are not listed, and slices of a GPU (MIG).
    """
    for _, kinds, peak, *_ in _TPUS:
        if device_kind in kinds:
            return peak * TERA
    words = set(re.split(r"[ \-]", device_kind))
    if "MIG" in words:
        return None
    return next((peak * TERA for name, peak in _GPUS if words.issuperset(name.split())), None)


def _plannable_chips() -> dict[str, Chip]:
    chips = [
        Chip(name, "tpu", int(gib * GIB), peak * TERA, bandwidth * GIGA, cores)
        for name, _, peak, gib, bandwidth, cores in _TPUS
        if gib and bandwidth
    ]
    for name, target in gpu_targets().items():
        peak = peak_flops(target.device_kind)
        assert peak, f"{target.device_kind} is missing in _GPUS"
        chips.append(Chip(name, "cuda", target.memory, peak, target.bandwidth))
    chips.append(Chip("cpu", "cpu", 4 * GIB, 0.1 * TERA, 20 * GIGA))  # nominal figures of no particular machine
    return {chip.name: chip for chip in chips}


CHIPS = _plannable_chips()
