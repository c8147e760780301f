"""Makes a corpus of the shards of its parts: a description of each part, a README, and what TFDS wants to know.

    PART-00000-of-00004.tfrecord   PART-00000-of-00004.tfrecord.index   ...   PART.json
    README.md   dataset_info.json   features.json

Equal input gives equal bytes, whoever wrote the shards: nothing that is written knows the time or the machine.
`PART.json` is written last; without it the part does not exist for the loader.
"""

import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from etils import epath

from scotd_jax.atomic import atomic_write, remove_partial_files
from scotd_jax.corpus.counts import CorpusCounts
from scotd_jax.corpus.encode import GroupedExample
from scotd_jax.corpus.readme import readme
from scotd_jax.corpus.shards import ShardWriter, shard_range
from scotd_jax.corpus.tfds import dataset_info, features
from scotd_jax.errors import InputError

FORMAT = "scotd_jax.grouped_corpus.2"
ShardFacts = Mapping[str, Any]  # of one shard (ShardWriter.facts)


def finish_corpus(
    folder: epath.PathLike,
    parts: Mapping[str, Sequence[ShardFacts]],
    meta: Mapping[str, Any],
    balance: str = "questions",
    reason: str = "",
) -> dict[str, dict[str, Any]]:
    """Writes the descriptions of all parts, whose shards are there, and returns them (`PART.json`).

    A description holds `format`, `part`, `balance` (what comes equally often in training: "questions" or
    "responses"), `counts` (see `Counts`), `files` (name, records, questions, bytes, sha256, ids) and `meta` as given:
    plain JSON data about where the corpus comes from. Other shards of these parts are removed.

    Raises InputError when a part has no examples, with the `reason`; and when the disk is full.
    """
    folder = epath.Path(folder)
    described = {}
    for part, shards in parts.items():
        if not sum(facts["records"] for facts in shards):
            raise InputError(
                f"{folder}: the corpus is empty, part {part!r} has no example{reason and ': '}{reason}. Look at the "
                "responses and at the corpus' keep, n, decontaminate and token limits in the config"
            )
        described[part] = {
            "format": FORMAT,
            "part": part,
            "balance": balance,
            "counts": CorpusCounts.total(facts["counts"] for facts in shards).to_json(),
            "files": [{k: v for k, v in facts.items() if k != "counts"} for facts in shards],
            "meta": dict(meta),
        }
    for part, description in described.items():
        _remove_other_shards(folder, part, description)
    _write(folder / "README.md", readme(described))
    _write(folder / "dataset_info.json", _json(dataset_info(described)))
    _write(folder / "features.json", _json(features()))
    for part, description in described.items():
        _write(folder / f"{part}.json", _json(description))
    return described


def write_corpus(
    folder: epath.PathLike,
    part: str,
    examples: Iterable[GroupedExample],
    shards: int,
    meta: Mapping[str, Any],
    balance: str = "questions",
) -> dict[str, Any]:
    """A corpus of one part from examples that are at hand; returns its description. The records of a question come
    one after the other. There are at most as many shards as questions.

    Raises InputError as `finish_corpus` does, and when a question comes again.
    """
    folder = epath.Path(folder)
    groups = [list(records) for _, records in itertools.groupby(examples, key=lambda example: example.question_id)]
    seen: set[str] = set()
    for first, *_ in groups:
        if first.question_id in seen:
            raise InputError(f"{folder}: question {first.question_id!r} comes twice in part {part!r}")
        seen.add(first.question_id)
    (folder / f"{part}.json").unlink(missing_ok=True)  # while shards are replaced the part must not look whole
    remove_partial_files(folder, prefix=f"{part}-")
    count, facts = max(1, min(shards, len(groups))), []
    for shard in range(count):
        with ShardWriter(folder, part, shard, count) as writer:
            for place in shard_range(shard, count, len(groups)):
                for example in groups[place]:
                    writer.write(example)
        facts.append(writer.facts)
    return finish_corpus(folder, {part: facts}, meta, balance)[part]


def read_description(folder: epath.PathLike, part: str) -> dict[str, Any]:
    """The description of a part. Raises InputError when it was not built or by another version."""
    path = epath.Path(folder) / f"{part}.json"
    if not path.exists():
        raise InputError(f"{path}: no such file; part {part!r} of this corpus is not built: run the job build")
    try:
        description = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error}): build the corpus again") from None
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise InputError(f"{path}: expected a corpus of format {FORMAT}: build the corpus again")
    return description


def _write(path: epath.Path, text: str) -> None:
    with atomic_write(path) as file:
        file.write(text.encode())


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def _remove_other_shards(folder: epath.Path, part: str, description: ShardFacts) -> None:
    """Removes shards of an earlier build with another number of shards, so that globs find this build only."""
    ours = {file["name"] for file in description["files"]}
    shard = re.compile(re.escape(part) + r"-\d{5}-of-\d{5}\.tfrecord(\.index|\.questions)?")
    for path in list(folder.iterdir()):
        if shard.fullmatch(path.name) and path.name.removesuffix(".index").removesuffix(".questions") not in ours:
            path.unlink()
