"""Options of training that change how an update is computed; all of them are off unless a config says otherwise.

remat and dropout are explained in models/forward_options.py, label smoothing and z-loss in losses.py.
"""

import dataclasses
from typing import Any

import jax
from jax.sharding import NamedSharding

from scotd_jax import config
from scotd_jax.models.forward_options import Attend, Regime, Remat


@dataclasses.dataclass(frozen=True)
class Options:
    """Those of `config.Training`, which is where they are checked; hashable, so that programs can be kept by them.
    `rolled` is what `scan_layers` means on a platform: models/layer_scan.py."""

    remat: Remat = "none"
    dropout: float = 0.0
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    rolled: bool = False

    @classmethod
    def of(cls, training: config.Training, platform: str = "") -> "Options":
        """For "cpu", "tpu", "gpu" or "cuda"; "" is a platform that is not known."""
        given = {field.name: getattr(training, field.name) for field in dataclasses.fields(cls)[:-1]}
        return cls(**given, rolled=is_rolled(training, platform))

    @property
    def objective(self) -> bool:
        """Whether what is optimized is another number than the cross entropy."""
        return self.label_smoothing > 0 or self.z_loss > 0

    def regime(
        self,
        key: jax.Array | None,
        place: NamedSharding | None = None,
        places: Any = None,
        attend: Attend | None = None,
    ) -> dict[str, Regime]:
        """The argument `regime` of a model's functions; none where they compute as they always do."""
        regime = Regime(self.remat, self.dropout, key, place, self.rolled, places, attend)
        plain = self.remat == "none" and self.dropout == 0 and place is None and attend is None and not self.rolled
        return {} if plain else {"regime": regime}


def is_rolled(training: config.Training, platform: str) -> bool:
    """On CPUs, and where the platform is not known, only if the config says so."""
    return training.scan_layers == "on" or (training.scan_layers == "auto" and platform in ("tpu", "gpu", "cuda"))


OFF = Options()
