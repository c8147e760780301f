"""Forward-pass options of a training config, resolved for a platform."""

from scotd_jax import config
from scotd_jax.models.forward_options import ForwardOptions


def forward_options(training: config.Training, platform: str = "") -> ForwardOptions:
    """The options that follow from the config alone; those of a mesh and the dropout key are added by their users.

    Args:
      training: the config; its values are validated where it is built.
      platform: "cpu", "tpu", "gpu" or "cuda"; "" if unknown.
    """
    return ForwardOptions(remat=training.remat, dropout=training.dropout, scan_layers=scans_layers(training, platform))


def scans_layers(training: config.Training, platform: str) -> bool:
    """Whether `training.scan_layers` scans over layers on a platform: "auto" does on TPUs and GPUs only."""
    return training.scan_layers == "on" or (training.scan_layers == "auto" and platform in ("tpu", "gpu", "cuda"))
