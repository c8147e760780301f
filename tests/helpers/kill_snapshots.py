"""Snapshots of response folders after a kill, read without the store under test."""

import json
from pathlib import Path
from typing import NamedTuple

ResponseKey = tuple[str, int]  # question id, sample index


class Snapshot(NamedTuple):
    """Complete files by name, and their rows by key, as bytes."""

    files: dict[str, bytes]
    rows: dict[ResponseKey, bytes]


def take_snapshot(folder: Path) -> Snapshot:
    """Reads all complete files; asserts that none is truncated and that copies of a row are equal."""
    files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*.jsonl"))}
    rows: dict[ResponseKey, bytes] = {}
    for path, data in files.items():
        assert data.endswith(b"\n") or not data, f"{path} is truncated"
        for line in data.splitlines():
            fields = json.loads(line)
            key = fields["question_id"], fields["sample_index"]
            assert rows.setdefault(key, line) == line, f"{path}: another copy of {key} differs"
    return Snapshot(files, rows)


def check_preserved(before: Snapshot, after: Snapshot, total: int) -> None:
    """Asserts that rows and files stay unchanged, and that files are removed only after all `total` rows exist."""
    for key, line in before.rows.items():
        assert after.rows.get(key) == line, f"{key} was on disk and is lost or changed"
    for path, data in before.files.items():
        assert after.files.get(path, data) == data, f"{path} has changed"
        assert path in after.files or len(after.rows) == total, f"{path} was removed before all rows were written"
