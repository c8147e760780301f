"""The record of a checkpoint: position of the data iterator, scores, and a digest of every array.

Orbax commits the record with the checkpoint, as its custom metadata. It has a checksum of its own. Reading it opens no
array, so that a run can choose a checkpoint and check it before it is loaded.
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
from etils import epath

from scotd_jax.digests import digest
from scotd_jax.errors import InputError
from scotd_jax.strict_json import loads
from scotd_jax.training.array_digests import describe_arrays

BEST_METRIC = "dev_accuracy"  # chooses the best checkpoint; larger is better


class DamagedCheckpoint(InputError):  # noqa: N818 (named like the errors of weights and exports)
    """A checkpoint that is not what was saved. `Checkpoints.restore` then uses the one before it."""


class CheckpointRecord(NamedTuple):
    """What a checkpoint records besides its arrays.

    Attributes:
      data: state of the data iterator.
      scores: evaluation scores; empty if the checkpoint was not evaluated.
      unfinished: metrics of updates since the last line (`DeferredMetrics.unfinished`).
      arrays: "DTYPE[SHAPE] DIGEST" by the path of the array, such as "params/embed/tokens"; None if it was saved by a
        version that recorded no digests.
    """

    data: Any
    scores: Mapping[str, float]
    arrays: Mapping[str, str] | None
    unfinished: Mapping[str, Any] = {}

    def to_metadata(self) -> dict[str, Any]:
        """Returns the record as JSON data for Orbax."""
        values = {"data": json.dumps(self.data), "scores": dict(self.scores), "arrays": dict(self.arrays or {})}
        values |= {"unfinished": json.dumps(self.unfinished)}  # as text, because Orbax stores only some types
        return values | {"checksum": digest(values)}

    @property
    def score(self) -> float:
        """The score that chooses the best checkpoint, -1 without one."""
        return float(self.scores.get(BEST_METRIC, -1.0))


def make_record(
    data: Any, scores: Mapping[str, float], items: Mapping[str, Any], unfinished: Mapping[str, Any]
) -> CheckpointRecord:
    """Returns the record of a checkpoint with these items. With several processes all of them must call it."""
    scores = {key: float(value) for key, value in scores.items()}
    return CheckpointRecord(data, scores, describe_items(items), unfinished)


def describe_items(items: Mapping[str, Any]) -> dict[str, str]:
    """Returns the descriptions of all arrays of some items by path."""
    return describe_arrays({f"{item}/{path}": leaf for item in items for path, leaf in leaves_by_path(items[item])})


def leaves_by_path(tree: Any) -> list[tuple[str, Any]]:
    """Returns every leaf with its path, which names tuple entries by index and fields by name, as Orbax does."""
    return [
        ("/".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]


def read_record(checkpoint: epath.Path) -> CheckpointRecord:
    """Reads the record of the checkpoint in a folder.

    Raises:
      DamagedCheckpoint: if it is missing or altered.
    """
    path = checkpoint / "_CHECKPOINT_METADATA"
    try:
        recorded = loads(path.read_bytes())["custom_metadata"]
        data = loads(recorded["data"])
        if "checksum" not in recorded:  # saved by a version without digests
            scores = checkpoint / "metrics" / "metrics"
            return CheckpointRecord(data, loads(scores.read_bytes()) if scores.exists() else {}, None)
        checksum = recorded.pop("checksum")
        intact = checksum == digest(recorded)
        unfinished = loads(recorded["unfinished"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedCheckpoint(f"{path}: damaged ({error!r:.200})") from None
    if not intact:
        raise DamagedCheckpoint(f"{path}: damaged, it does not match its checksum")
    return CheckpointRecord(data, recorded["scores"], recorded["arrays"], unfinished)


def check_arrays(checkpoint: epath.Path, record: CheckpointRecord, items: Mapping[str, Any]) -> None:
    """Compares loaded arrays with the record. With several processes all of them must call it.

    Raises:
      DamagedCheckpoint: names the first array that differs or is not recorded.
    """
    if record.arrays is None:
        return
    for name, found in describe_items(items).items():
        if found != record.arrays.get(name):
            raise DamagedCheckpoint(f"{checkpoint}: damaged, array {name} is not the one that was saved")
