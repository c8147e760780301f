"""Writes responses as they are generated, so that an interrupted job resumes with the missing ones."""

from collections.abc import Callable, Iterator, Sequence, Set
from typing import Any

import jax
from etils import epath

from scotd_jax.distributed import hosts
from scotd_jax.jobs.context import RunContext
from scotd_jax.rationales.store import ResponseWriter
from scotd_jax.records import Response

# Given the (question id, sample index) of all responses on disk, returns the number of missing responses and an
# iterator that generates them in batches. Records of another `kind` likewise.
GenerateMissing = Callable[[Set[tuple[str, int]]], tuple[int, Iterator[list[Any]]]]


def write_missing(
    context: RunContext,
    generate_missing: GenerateMissing,
    folder: epath.Path,
    stem: str,
    order: Sequence[str],
    *,
    shards: int | None = None,
    by_group: bool = False,
    label: str,
    scope: str = "",
    note: Callable[[], str] = str,
    kind: type[Any] = Response,
) -> list[epath.Path]:
    """Writes the missing responses batch by batch, merges all of them, and returns the merged files.

    Every process, or data group, generates its share of the missing responses; the first process merges all files.

    Args:
      context: the run.
      generate_missing: generates the share of this process or data group, see `GenerateMissing`.
      folder: folder of the response files.
      stem: first part of the file names.
      order: ids of all questions, in the order of the merged files.
      shards: number of merged files; None for a single file STEM.jsonl.
      by_group: whether the processes of a data group generate together, so that one of them writes.
      label: name of the model or method, for the progress line.
      scope: name of the question set, for the progress line.
      note: returns the note at the end of the progress line.
      kind: class of the records.
    """
    writer = ResponseWriter(folder, stem, host=jax.process_index(), kind=kind)
    done = writer.written_keys()
    # All processes must read before any writes. Otherwise rows of a fast process would change the share of a slow one.
    hosts.sync_processes(f"{folder} {stem} is read")
    writes = not by_group or context.data_group.writes
    missing, batches = generate_missing(done)
    with context.progress(len(done) + missing, label, "responses", len(done), scope) as progress:
        for rows in batches:
            if writes:
                writer.write(rows)
            progress.advance(len(rows), note())
    hosts.sync_processes(f"{folder} {stem} is written")
    if hosts.is_primary():
        writer.merge(order, shards)
    hosts.sync_processes(f"{folder} {stem} is merged")
    return writer.merged_paths(shards)
