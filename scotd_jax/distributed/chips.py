"""What accelerators can do at best: dense bfloat16 products with float32 sums, as their makers state it.

The denominators of MFU, whatever precision a model computes in. Makers like to state twice as much, for matrices of
which half is zero; these are the figures for full ones. TPU figures are per device as JAX counts devices: a chip, but
one of the two halves of a chip in v2, v3 and 7x.
"""

import re

# By JAX's `device_kind`, wholly.
_TPUS = {
    "TPU v2": 22.5e12,
    "TPU v3": 61.5e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "TPU7x": 1153.5e12,
}
# By words that the `device_kind` must have; the first entry that fits counts.
_GPUS = (
    (("GB200",), 2500e12),
    (("B200",), 2250e12),
    (("GH200",), 989.4e12),
    (("H200", "NVL"), 835.5e12),
    (("H200",), 989.4e12),
    (("H100", "NVL"), 835.5e12),
    (("H100", "PCIe"), 756e12),
    (("H100",), 989.4e12),
    (("H800",), 989.4e12),
    (("A100",), 312e12),
    (("A800",), 312e12),
    (("A30",), 165e12),
    (("A10",), 125e12),
    (("A10G",), 70e12),
    (("A40",), 149.7e12),
    (("L40S",), 362e12),
    (("L40",), 181e12),
    (("L4",), 121e12),
    (("MI300X",), 1307.4e12),
)


def peak_flops(device_kind: str) -> float | None:
    """Operations per second of one device, by `jax.Device.device_kind` ("NVIDIA A100-SXM4-80GB", "TPU v5 lite").

    None where it is not known: CPUs, other accelerators, and slices of a GPU (MIG).
    """
    if device_kind in _TPUS:
        return _TPUS[device_kind]
    words = set(re.split(r"[ \-]", device_kind))
    if "MIG" in words:
        return None
    return next((peak for name, peak in _GPUS if words.issuperset(name)), None)
