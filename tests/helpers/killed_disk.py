"""What a killed run has left on the disk, read without the package, of whose store this is a test."""

import json
from pathlib import Path
from typing import NamedTuple

ResponseKey = tuple[str, int]


class Disk(NamedTuple):
    """What lies in the folder of a set: whole files by name, and their rows by theirs, both as bytes."""

    files: dict[str, bytes]
    rows: dict[ResponseKey, bytes]


def look(folder: Path) -> Disk:
    """Everything that is whole. No file may be torn, and two copies of a row must be equal."""
    files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*.jsonl"))}
    rows: dict[ResponseKey, bytes] = {}
    for path, data in files.items():
        assert data.endswith(b"\n") or not data, f"{path} is torn"
        for line in data.splitlines():
            fields = json.loads(line)
            name = fields["question_id"], fields["sample_index"]
            assert rows.setdefault(name, line) == line, f"{path}: {name} is there twice, and differs"
    return Disk(files, rows)


def check_kept(before: Disk, after: Disk, total: int) -> None:
    """Rows are there for good; files keep their bytes, and go only when all `total` rows have been written."""
    for name, line in before.rows.items():
        assert after.rows.get(name) == line, f"{name} was on the disk and is gone or changed"
    for path, data in before.files.items():
        assert after.files.get(path, data) == data, f"{path} has changed"
        assert path in after.files or len(after.rows) == total, f"{path} is gone before everything was said"
