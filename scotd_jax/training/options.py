"""Options of training that change how an update is computed; all of them are off unless a config says otherwise.

remat and dropout are explained in models/regime.py, label smoothing and z-loss in losses.py.
"""

import dataclasses

import jax
from jax.sharding import NamedSharding

from scotd_jax import config
from scotd_jax.models.regime import Attend, Regime, Remat


@dataclasses.dataclass(frozen=True)
class Options:
    """Those of `config.Training`, which is where they are checked; hashable, so that programs can be kept by them."""

    remat: Remat = "none"
    dropout: float = 0.0
    label_smoothing: float = 0.0
    z_loss: float = 0.0

    @classmethod
    def of(cls, training: config.Training) -> "Options":
        return cls(*(getattr(training, field.name) for field in dataclasses.fields(cls)))

    @property
    def objective(self) -> bool:
        """Whether what is optimized is another number than the cross entropy."""
        return self.label_smoothing > 0 or self.z_loss > 0

    def regime(
        self, key: jax.Array | None, place: NamedSharding | None = None, attend: Attend | None = None
    ) -> dict[str, Regime]:
        """The argument `regime` of a model's functions; none where they compute as they always do."""
        if self.remat == "none" and self.dropout == 0 and place is None and attend is None:
            return {}
        return {"regime": Regime(self.remat, self.dropout, key, place, attend)}


OFF = Options()
