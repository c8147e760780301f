"""Batches of a corpus: batch t is arithmetic on (seed, t), not the end of a replay.

Rows are numbered through all epochs. Row i of the stream belongs to epoch i // E (E entries, see reader.py) and is the
entry at place i % E of that epoch's permutation; a window of W batches of B questions holds W * B rows one after the
other, which are dealt out to its batches so that these are of a size (dealing.py). Of an entry's records one is drawn,
and of its N responses G, by a key made of the seed, the question's name and the epoch. So a cut run resumes at any
batch without reading what came before, and any number of processes cuts the same batches into consecutive parts. All
parts of a corpus visit the same question in the same row, and as the key is one, parts whose records hold a response
each show the one that a part with all responses beside one prompt draws first.

Of all that, which questions make a batch depends on nothing but lengths, seed and settings. In which shape they are
laid out (choice.py) also depends on how many rows the devices share.
"""

import functools
import math
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from scotd_jax.corpus.batching import collate
from scotd_jax.corpus.batching.collate import Batch
from scotd_jax.corpus.batching.draws import Draw, PartDraws
from scotd_jax.corpus.batching.length_balancing import balance_lengths
from scotd_jax.corpus.batching.shape_selection import SelectedShapes, select_shapes
from scotd_jax.corpus.batching.shapes import Shape, Shapes, TextLengths, sides
from scotd_jax.corpus.reader import CorpusReader
from scotd_jax.errors import InputError
from scotd_jax.keyed_random import random_permutation
from scotd_jax.layout import round_up

LOOK = 64  # batches by which shapes are chosen


class CorpusBatches:
    """Random access to the batches of one process, without end: `batches[t]` is its part of global batch t.

    An item has a batch for every part of the corpus: a dict of arrays, B being the process' part of `batch_size` and
    G the lesser of `group_size` and the largest number of responses that a record of the part has:

        prompt int32[B, P], prompt_mask bool[B, P]      the prefix (`layout.split_prompt`), right-padded
        inputs, targets int32[B, G, R]                  start token and response, the response
        weights float32[B, G, R]                        1 on the tokens of the response, 0 on padding

    P and R are the largest of the part, rounded up to 8. With several `shapes` most batches are packed instead
    (collate.packed); B and G then count rows, and positions, questions and prompt_questions say what lies where.
    """

    def __init__(
        self,
        readers: Mapping[str, CorpusReader],
        *,
        batch_size: int,
        group_size: int,
        start_token: int | None,
        seed: int,
        process_index: int = 0,
        process_count: int = 1,
        window: int = 1,
        shapes: int = 1,
        multiple: int = 1,
    ):
        """`batch_size` counts the entries of all processes; `start_token` is the model's (None: decoder-only).

        `window` batches share their questions out, but never more than an epoch has; batches come in at most `shapes`
        shapes, whose rows are a multiple of `multiple`. Raises InputError when the processes cannot share a batch
        equally, and when the parts do not hold the same questions.
        """
        if batch_size % process_count:
            raise InputError(f"batch_size {batch_size} is not a multiple of the {process_count} processes")
        self._entries, ids = next(iter(readers.values())).ids
        for name, reader in readers.items():
            if reader.ids != (self._entries, ids):
                raise InputError(
                    f"part {name!r} of the corpus holds other questions than {next(iter(readers))!r}: build it again"
                )
        self._seed, self._batch_size = seed, batch_size
        self._process, self._processes = process_index, process_count
        self._window = max(1, min(window, self._entries // batch_size))
        self._visits = {name: PartDraws(reader, group_size, start_token) for name, reader in readers.items()}
        self._permutation = functools.lru_cache(maxsize=2)(
            lambda epoch: random_permutation(self._entries, "epoch", seed, epoch)
        )
        self._dealt = functools.lru_cache(maxsize=4)(self._deal)
        self._choice = SelectedShapes(1, (self._plain(),))
        if shapes > 1:
            self._choice = select_shapes(self.look(), self._plain(), shapes, math.lcm(multiple, process_count))

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, step: int) -> dict[str, Batch]:
        visits = [self._visit(i) for i in self.rows(step)]
        shapes, dealt = self._choice.of(self._sizes(visits)) if len(self._choice.shapes) > 1 else self._fixed()
        own = np.split(dealt, self._processes)[self._process]
        return {name: self._arrays(name, shape, visits, own) for name, shape in shapes.items()}

    def rows(self, step: int) -> list[int]:
        """The rows of the stream that make batch `step`, of all processes."""
        window, place = divmod(step, self._window)
        return self._dealt(window)[place].tolist()

    def row(self, index: int) -> dict[str, tuple[list[int], list[list[int]]]]:
        """Per part the prompt and G drawn responses of row `index` of the stream. Fewer than G are repeated."""
        shown = {}
        for name, visit in self._visit(index).items():
            row = self._visits[name].row(visit)
            shown[name] = row.prompt, [row.responses[g % len(row.responses)] for g in range(visit.count)]
        return shown

    def look(self) -> list[Mapping[str, TextLengths]]:
        """The sizes of the first batches: LOOK of them, or two epochs if that is less."""
        count = min(LOOK, max(self._window, -(-2 * self._entries // self._batch_size)))
        return [self._sizes([self._visit(i) for i in self.rows(step)]) for step in range(count)]

    @property
    def choice(self) -> SelectedShapes:
        """The shapes in which batches come."""
        return self._choice

    def _plain(self) -> Shapes:
        """The shape that everything fits into."""
        return {
            name: Shape(
                self._batch_size, round_up(v.longest[0], 8), v.group_size, round_up(v.longest[1], 8), packed=False
            )
            for name, v in self._visits.items()
        }

    def _fixed(self) -> tuple[Shapes, np.ndarray]:
        return self._choice.shapes[0], np.arange(self._batch_size)[:, None]

    def _visit(self, index: int) -> dict[str, Draw]:
        epoch, place = divmod(index, self._entries)
        entry = int(self._permutation(epoch)[place])
        return {name: visits.visit(entry, self._seed, epoch) for name, visits in self._visits.items()}

    def _sizes(self, visits: list[dict[str, Draw]]) -> dict[str, TextLengths]:
        sizes = {name: zip(*(part.size(v[name]) for v in visits), strict=True) for name, part in self._visits.items()}
        return {
            name: TextLengths(np.array(prompts), np.stack(responses)) for name, (prompts, responses) in sizes.items()
        }

    def _deal(self, window: int) -> np.ndarray:
        """int64[W, B]: the rows of the stream in every batch of a window."""
        size = self._window * self._batch_size
        rows = np.arange(window * size, (window + 1) * size)
        if self._window == 1:
            return rows[None]
        sizes = self._sizes([self._visit(i) for i in rows.tolist()])
        dealt = balance_lengths(sides(sizes), self._window)
        return rows[dealt][random_permutation(self._window, "window", self._seed, window)]

    def _arrays(self, name: str, shape: Shape, visits: list[dict[str, Draw]], own: np.ndarray) -> Batch:
        part = self._visits[name]
        rows = [[part.row(visits[i][name]) for i in row] for row in own.tolist()]
        if shape.packed:
            return collate.collate_packed(rows, shape, part.start_token)
        return collate.collate_plain([row for (row,) in rows], shape, part.start_token)


def make_dataset(folder: epath.PathLike, parts: tuple[str, ...] = ("train",), **options: Any) -> Any:
    """The batches as a `grain.MapDataset`; `options` are those of `Batches`."""
    import grain

    return grain.MapDataset.source(open_batches(folder, parts, **options))


def open_batches(folder: epath.PathLike, parts: tuple[str, ...] = ("train",), **options: Any) -> CorpusBatches:
    """The batches of the corpus in `folder`; `options` are those of `Batches`.

    Raises InputError as `Batches` does, and on a corpus that is missing or damaged.
    """
    return CorpusBatches({part: CorpusReader(folder, part) for part in parts}, **options)


def prefetch_batches(batches: CorpusBatches) -> Any:
    """An endless `grain.DatasetIterator` over the batches of one process, read ahead by two threads.

    Its items are those of `Batches`, {part: batch}. `get_state` and `set_state` are exact and their state,
    `{"next_index": t}`, fits any number of processes.
    """
    import grain

    dataset = grain.MapDataset.source(batches)
    return iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)))


def make_loader(folder: epath.PathLike, parts: tuple[str, ...] = ("train",), **options: Any) -> Any:
    """`read_ahead` of `open_batches`."""
    return prefetch_batches(open_batches(folder, parts, **options))
