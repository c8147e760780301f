"""The README of a corpus: its counts, its features, and how to read it without this package."""

import json
from collections.abc import Mapping
from typing import Any

from scotd_jax.corpus.grouped_example import FEATURES

_TEMPLATE = """\
# A corpus of questions with their rationales

Parts: {parts}.

{counts}

Each record is one `tf.train.Example`: a prompt and all responses to it, as token ids.

| feature | content |
|---|---|
{features}

The records of a question are consecutive, and all parts hold the same questions in the same order. To read the corpus
with TensorFlow, and with TensorFlow Datasets (every part is a split):

```python
tf.data.TFRecordDataset(sorted(tf.io.gfile.glob("{first}-*.tfrecord")))
tfds.builder_from_directory(FOLDER).as_dataset(split="{first}")
```

`.index` files hold one line of JSON (format, records, bytes, crc32c), then records + 1 little-endian uint64: the byte
at which each record begins and, last, the size of the file. `.questions` files, which exist where questions have
several records, hold the first record of each question in the same form.

Origin of the corpus:

```json
{meta}
```
"""


def readme(parts: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the README as Markdown, from the descriptions of all parts (see `finish_corpus`)."""
    names, first = list(parts), next(iter(parts.values()))
    return _TEMPLATE.format(
        parts=", ".join(f"`{name}`" for name in names),
        counts="\n".join(_count_table(parts)),
        features="\n".join(f"| `{name}` | {content} |" for name, content in FEATURES.items()),
        first=names[0],
        meta=json.dumps(first["meta"], indent=1, ensure_ascii=False),
    )


def _count_table(parts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    names, first = list(parts), next(iter(parts.values()))
    lines = ["| count | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for count in first["counts"]:
        values = [f"{description['counts'][count]:,}" for description in parts.values()]
        lines.append(f"| {count.replace('_', ' ')} | {' | '.join(values)} |")
    return lines
