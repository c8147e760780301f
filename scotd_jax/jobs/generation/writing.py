"""Writing of responses as they are generated, so that an interrupted job resumes with what is missing."""

from collections.abc import Callable, Iterator, Sequence, Set

import jax
from etils import epath

from scotd_jax.distributed import hosts
from scotd_jax.jobs.context import RunContext
from scotd_jax.rationales.store import ResponseWriter
from scotd_jax.records import Response

# Generates what is missing beyond the (question id, sample index) already on disk: number of responses, and batches.
GenerateMissing = Callable[[Set[tuple[str, int]]], tuple[int, Iterator[list[Response]]]]


def write_missing(
    context: RunContext,
    generate_missing: GenerateMissing,
    folder: epath.Path,
    stem: str,
    order: Sequence[str],
    *,
    shards: int | None = None,
    label: str,
    scope: str = "",
    note: Callable[[], str] = str,
) -> list[epath.Path]:
    """Writes the missing responses batch by batch, merges all of them, and returns the merged files.

    Every process generates its share of what is missing, whichever process wrote the rest; the first one merges.

    Args:
      context: the run.
      generate_missing: starts the generation of what is missing here.
      folder: folder of the files.
      stem: first part of their names.
      order: ids of all questions, in the order of the merged files.
      shards: number of merged files; None for one named STEM.jsonl.
      label: name of the model or method, for the progress line.
      scope: name of the question set, for the progress line.
      note: returns the note beside it.
    """
    writer = ResponseWriter(folder, stem, host=jax.process_index())
    done = writer.written_keys()
    # All processes read before any writes: otherwise rows of a fast one would shift the shares of a slow one.
    hosts.sync_processes(f"{folder} {stem} is read")
    missing, batches = generate_missing(done)
    with context.progress(len(done) + missing, label, "responses", len(done), scope) as progress:
        for rows in batches:
            writer.write(rows)
            progress.advance(len(rows), note())
    hosts.sync_processes(f"{folder} {stem} is written")
    if hosts.is_primary():
        writer.merge(order, shards)
    hosts.sync_processes(f"{folder} {stem} is merged")
    return writer.merged_paths(shards)
