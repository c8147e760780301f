"""Writes one split of a corpus: TFRecord shards with their indices, a description and a README.

    SPLIT-00000-of-00004.tfrecord   SPLIT-00000-of-00004.tfrecord.index   ...   SPLIT.json   README.md

Example i lies in shard i modulo the number of shards, so that examples are written as they come and their order does
not depend on how many shards there are. Equal input gives equal bytes: nothing that is written knows the time or the
machine. `SPLIT.json` is written last; without it the split does not exist for the loader.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from etils import epath

from scotd_jax.atomic import atomic_write, sweep
from scotd_jax.corpus.encode import FEATURES, GroupedExample
from scotd_jax.corpus.tfrecord import TFRecordWriter, index_path
from scotd_jax.errors import InputError

FORMAT = "scotd_jax.grouped_corpus.1"


@dataclasses.dataclass
class Counts:
    """Sizes of a corpus in questions, responses and tokens, added up one example at a time."""

    questions: int = 0
    responses: int = 0
    responses_max: int = 0
    prompt_tokens: int = 0
    prompt_tokens_max: int = 0
    response_tokens: int = 0
    response_tokens_max: int = 0
    grouped_tokens: int = 0  # one prompt and its N responses
    separate_tokens: int = 0  # N pairs of prompt and response

    def add(self, example: GroupedExample) -> None:
        prompt, responses = len(example.prompt), [len(r) for r in example.responses]
        self.questions += 1
        self.responses += len(responses)
        self.responses_max = max(self.responses_max, len(responses))
        self.prompt_tokens += prompt
        self.prompt_tokens_max = max(self.prompt_tokens_max, prompt)
        self.response_tokens += sum(responses)
        self.response_tokens_max = max(self.response_tokens_max, *responses)
        self.grouped_tokens += prompt + sum(responses)
        self.separate_tokens += len(responses) * prompt + sum(responses)

    def to_json(self) -> dict[str, int | float]:
        """The counts and what follows from them; `grouping_gain` is how many times fewer tokens a student computes
        when each prompt is computed once for all its responses."""
        means = {
            "responses_mean": self.responses / self.questions,
            "prompt_tokens_mean": self.prompt_tokens / self.questions,
            "response_tokens_mean": self.response_tokens / self.responses,
            "grouping_gain": self.separate_tokens / self.grouped_tokens,
        }
        return dataclasses.asdict(self) | {name: round(value, 3) for name, value in means.items()}


def write_corpus(
    folder: epath.PathLike,
    split: str,
    examples: Iterable[GroupedExample],
    shards: int,
    meta: Mapping[str, Any],
    ledger: Any = None,
) -> dict[str, Any]:
    """Writes `examples` as split `split` of the corpus in `folder` and returns its description (`SPLIT.json`).

    The description holds `format`, `split`, `counts` (see `Counts`), `files` (name, records, bytes and sha256 of
    every shard), `sha256` (of all examples in order, whatever the shards) and `meta` as given: plain JSON data about
    where the corpus comes from. There are at most as many shards as examples. Examples are written as they come; only
    the first few are held in memory.

    Raises InputError when there are no examples, naming the bins of `ledger` (`rationales.ledger.Ledger`) that took
    the responses; when a question comes twice; and when the disk is full.
    """
    folder = epath.Path(folder)
    examples = iter(examples)
    head = list(itertools.islice(examples, shards))
    if not head:
        reason = f": {ledger.summary()}" if ledger is not None else ""
        raise InputError(
            f"{folder}: the corpus is empty, split {split!r} has no example{reason}. Look at the responses and at "
            "the corpus' keep, n and token limits in the config"
        )
    description_path = folder / f"{split}.json"
    description_path.unlink(missing_ok=True)  # while shards are replaced the split must not look whole
    sweep(folder, prefix=f"{split}-")
    names = [f"{split}-{i:05d}-of-{len(head):05d}.tfrecord" for i in range(len(head))]
    counts, seen, digest = Counts(), set(), hashlib.sha256()
    with contextlib.ExitStack() as stack:
        writers = [stack.enter_context(TFRecordWriter(folder / name)) for name in names]
        for i, example in enumerate(itertools.chain(head, examples)):
            if example.question_id in seen:
                raise InputError(f"{folder}: question {example.question_id!r} comes twice in split {split!r}")
            seen.add(example.question_id)
            counts.add(example)
            data = example.to_bytes()
            digest.update(hashlib.sha256(data).digest())
            writers[i % len(writers)].write(data)
    _remove_other_shards(folder, split, names)
    description = {
        "format": FORMAT,
        "split": split,
        "counts": counts.to_json(),
        "files": [{"name": w.path.name, "records": w.records, "bytes": w.bytes, "sha256": w.sha256} for w in writers],
        "meta": dict(meta),
    }
    with atomic_write(folder / "README.md") as file:
        file.write(readme(description).encode())
    with atomic_write(description_path) as file:
        file.write((json.dumps(description, indent=1, ensure_ascii=False) + "\n").encode())
    return description


def read_description(folder: epath.PathLike, split: str) -> dict[str, Any]:
    """What `write_corpus` returned. Raises InputError when the split was not built or by another version."""
    path = epath.Path(folder) / f"{split}.json"
    if not path.exists():
        raise InputError(f"{path}: no such file; split {split!r} of this corpus is not built: run the job build")
    try:
        description = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error}): build the corpus again") from None
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise InputError(f"{path}: expected a corpus of format {FORMAT}: build the corpus again")
    return description


def readme(description: Mapping[str, Any]) -> str:
    """The README of a corpus: what is in it and how others read it."""
    split = description["split"]
    lines = ["# A corpus of questions with their rationales", "", f"Split `{split}`, {FORMAT}.", ""]
    lines += ["| count | value |", "|---|---|"]
    lines += [f"| {name.replace('_', ' ')} | {value:,} |" for name, value in description["counts"].items()]
    lines += ["", "Each record is one `tf.train.Example`: one question and all its responses, as token ids.", ""]
    lines += ["| feature | content |", "|---|---|"]
    lines += [f"| `{name}` | {content} |" for name, content in FEATURES.items()]
    lines += [
        "",
        "Example i of the split is record i // S of shard i % S, S being the number of shards. With TensorFlow:",
    ]
    lines += ["", "```python", f'tf.data.TFRecordDataset(sorted(tf.io.gfile.glob("{split}-*.tfrecord")))', "```", ""]
    lines += ["`.index` files hold one line of JSON (format, records, bytes, crc32c), then records + 1 little-endian"]
    lines += ["uint64: where each record begins and, last, the size of the file.", ""]
    lines += ["Where it comes from:", "", "```json"]
    lines += [json.dumps(description["meta"], indent=1, ensure_ascii=False), "```", ""]
    return "\n".join(lines)


def _remove_other_shards(folder: epath.Path, split: str, names: list[str]) -> None:
    """Removes shards of an earlier build with another number of shards, so that globs find this build only."""
    ours = set(names) | {index_path(name).name for name in names}
    shard = re.compile(re.escape(split) + r"-\d{5}-of-\d{5}\.tfrecord(\.index)?")
    for path in list(folder.iterdir()):
        if shard.fullmatch(path.name) and path.name not in ours:
            path.unlink()
