"""Completes a corpus whose shards are written: a description of each part, a README, and metadata for TFDS.

    PART-00000-of-00004.tfrecord   PART-00000-of-00004.tfrecord.index   ...   PART.json
    README.md   dataset_info.json   features.json

Equal input gives equal bytes, whichever processes wrote the shards: no file holds a time or a machine name. `PART.json`
is written last; without it the loader does not see the part.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from scotd_jax.atomic import atomic_write
from scotd_jax.corpus.counts import CorpusCounts
from scotd_jax.corpus.readme import readme
from scotd_jax.corpus.tfds import dataset_info, features
from scotd_jax.errors import InputError, UnusableCorpusError
from scotd_jax.strict_json import loads

FORMAT = "scotd_jax.grouped_corpus.2"
_TYPES = {"balance": str, "counts": dict, "files": list, "meta": dict}  # types of further fields of PART.json
ShardFacts = Mapping[str, Any]  # the value of `ShardWriter.facts`


def finish_corpus(
    folder: epath.PathLike,
    parts: Mapping[str, Sequence[ShardFacts]],
    meta: Mapping[str, Any],
    balance: str = "questions",
    reason: str = "",
) -> dict[str, dict[str, Any]]:
    """Writes the descriptions of all parts, whose shards exist, and removes shards of earlier builds.

    Args:
      folder: folder of the shards.
      parts: for each part the facts of its shards, in order.
      meta: JSON data about the origin of the corpus.
      balance: the units that training draws equally often, "questions" or "responses".
      reason: explanation that the error message gives if a part is empty.

    Returns:
      The content of each PART.json: `format`, `part`, `balance`, `counts` (see `CorpusCounts`), `files` (name, records,
      questions, bytes, sha256, ids) and `meta`.

    Raises:
      UnusableCorpusError: if a part has no examples.
      InputError: if the disk is full.
    """
    folder = epath.Path(folder)
    described = {}
    for part, shards in parts.items():
        if not sum(facts["records"] for facts in shards):
            because = f": {reason}" if reason else ""
            raise UnusableCorpusError(
                f"{folder}: the corpus is empty, part {part!r} has no example{because}. Look at the responses and at "
                "the corpus' keep, n, decontaminate and token limits in the config"
            )
        described[part] = {
            "format": FORMAT,
            "part": part,
            "balance": balance,
            "counts": CorpusCounts.merge(facts["counts"] for facts in shards).to_json(),
            "files": [{k: v for k, v in facts.items() if k != "counts"} for facts in shards],
            "meta": dict(meta),
        }
    for part, description in described.items():
        _remove_other_shards(folder, part, description)
    _write(folder / "README.md", readme(described))
    _write(folder / "dataset_info.json", _to_json(dataset_info(described)))
    _write(folder / "features.json", _to_json(features()))
    for part, description in described.items():
        _write(folder / f"{part}.json", _to_json(description))
    return described


def read_description(folder: epath.PathLike, part: str) -> dict[str, Any]:
    """Reads PART.json (see `finish_corpus`).

    Raises:
      InputError: if the part is not built, or was built by another version.
    """
    path = epath.Path(folder) / f"{part}.json"
    if not path.exists():
        raise InputError(f"{path}: no such file; part {part!r} of this corpus is not built: run the job build")
    try:
        description = loads(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error}): build the corpus again") from None
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise InputError(f"{path}: expected a corpus of format {FORMAT}: build the corpus again")
    if not all(isinstance(description.get(key), kind) for key, kind in _TYPES.items()) or not all(
        _is_file(file) for file in description["files"]
    ):
        raise InputError(f"{path}: fields are missing or of a wrong type: build the corpus again")
    return description


def _is_file(entry: Any) -> bool:
    """Whether an entry of `files` has the name of a file of the folder, and sizes that a file can have."""
    sizes = ("records", "questions", "bytes")
    return (
        isinstance(entry, dict)
        and isinstance(name := entry.get("name"), str)
        and re.fullmatch(r"[^/\\\0]+\.tfrecord", name) is not None
        and all(type(entry.get(key)) is int and 0 <= entry[key] < 2**63 for key in sizes)
        and isinstance(entry.get("ids"), str)
    )


def _write(path: epath.Path, text: str) -> None:
    with atomic_write(path) as file:
        file.write(text.encode())


def _to_json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def _remove_other_shards(folder: epath.Path, part: str, description: Mapping[str, Any]) -> None:
    """Removes shards of an earlier build with another number of shards, so that globs match this build only."""
    names = {file["name"] for file in description["files"]}
    shard = re.compile(re.escape(part) + r"-\d{5}-of-\d{5}\.tfrecord(\.index|\.questions)?")
    for path in list(folder.iterdir()):
        if shard.fullmatch(path.name) and path.name.removesuffix(".index").removesuffix(".questions") not in names:
            path.unlink()
