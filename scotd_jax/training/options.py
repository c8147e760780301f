"""Forward-pass options of a training config, resolved for a platform."""

from scotd_jax import config
from scotd_jax.models.forward_options import ForwardOptions


def forward_options(training: config.Training, platform: str = "") -> ForwardOptions:
    """Returns the options that depend on the config alone. Callers add those of a mesh, and the dropout key.

    Args:
      training: the training settings.
      platform: "cpu", "tpu", "gpu" or "cuda"; "" if unknown.
    """
    return ForwardOptions(remat=training.remat, dropout=training.dropout, scan_layers=scans_layers(training, platform))


def scans_layers(training: config.Training, platform: str) -> bool:
    """Whether to scan over layers on a platform: `training.scan_layers="auto"` scans on TPUs and GPUs only."""
    return training.scan_layers == "on" or (training.scan_layers == "auto" and platform in ("tpu", "gpu", "cuda"))
