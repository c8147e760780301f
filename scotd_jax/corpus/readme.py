"""The README of a corpus: what is in it and how others read it."""

import json
from collections.abc import Mapping
from typing import Any

from scotd_jax.corpus.encode import FEATURES


def readme(parts: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown, from the descriptions of all parts."""
    first = next(iter(parts.values()))
    names = list(parts)
    lines = ["# A corpus of questions with their rationales", "", f"Parts: {', '.join(f'`{n}`' for n in names)}.", ""]
    lines += ["| count | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for count in first["counts"]:
        values = [f"{description['counts'][count]:,}" for description in parts.values()]
        lines.append(f"| {count.replace('_', ' ')} | {' | '.join(values)} |")
    lines += ["", "Each record is one `tf.train.Example`: a prompt and all responses to it, as token ids.", ""]
    lines += ["| feature | content |", "|---|---|"]
    lines += [f"| `{name}` | {content} |" for name, content in FEATURES.items()]
    lines += ["", "The records of a question lie together, and all parts hold the same questions in the same order."]
    lines += ["With TensorFlow, and with TensorFlow Datasets (every part is a split):", "", "```python"]
    lines += [f'tf.data.TFRecordDataset(sorted(tf.io.gfile.glob("{names[0]}-*.tfrecord")))']
    lines += [f'tfds.builder_from_directory(FOLDER).as_dataset(split="{names[0]}")', "```", ""]
    lines += ["`.index` files hold one line of JSON (format, records, bytes, crc32c), then records + 1 little-endian"]
    lines += ["uint64: where each record begins and, last, the size of the file. `.questions` files, which are there"]
    lines += ["where questions have several records, say in the same form at which record each question begins.", ""]
    lines += ["Where it comes from:", "", "```json"]
    lines += [json.dumps(first["meta"], indent=1, ensure_ascii=False), "```", ""]
    return "\n".join(lines)
