"""Batches of a corpus as a pure function of (seed, step), so that a loader resumes at any step without a replay.

A position is the index of an entry (see reader.py) in the sequence of all epochs. With E entries, position i belongs to
epoch i // E and holds the entry at index i % E of that epoch (epochs.py), a permutation or a mixture of tasks. A window
of W batches of B questions holds W * B consecutive positions, which length balancing distributes over its batches. One
of an entry's records and G of its N responses are drawn, keyed by seed, question id and epoch. The batches are
therefore the same for any number of processes, each of which takes a consecutive share.

All parts of a corpus hold the same question at the same position. Their draws share one key, so a part with one
response per record draws the response that a part with all responses in one record draws first.

Which questions make a batch depends on lengths, seed and settings only. The shapes in which they are laid out
(shape_selection.py) also depend on how many rows the devices share.
"""

import functools
import math
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from scotd_jax.corpus.batching.collate import Batch, collate_packed, collate_plain
from scotd_jax.corpus.batching.draws import Draw, PartDraws
from scotd_jax.corpus.batching.epochs import make_epochs
from scotd_jax.corpus.batching.length_balancing import balance_lengths
from scotd_jax.corpus.batching.shape_selection import SelectedShapes, select_shapes
from scotd_jax.corpus.batching.shapes import BatchLengths, BatchShapes, Shape, TextLengths, question_lengths
from scotd_jax.corpus.reader import CorpusReader
from scotd_jax.errors import InputError
from scotd_jax.keyed_random import random_permutation
from scotd_jax.layout import round_up

PREVIEW_BATCHES = 64  # number of batches whose lengths decide the shapes


def open_batches(folder: epath.PathLike, parts: tuple[str, ...] = ("train",), **options: Any) -> "CorpusBatches":
    """Opens the batches of the corpus in `folder`; `options` are those of `CorpusBatches`.

    Raises:
      InputError: as `CorpusBatches` does, and if the corpus is missing or damaged.
    """
    return CorpusBatches({part: CorpusReader(folder, part) for part in parts}, **options)


def prefetch_batches(batches: "CorpusBatches") -> Any:
    """Returns an endless `grain.DatasetIterator` over the batches of one process, prefetched by two threads.

    Its items are those of `CorpusBatches`, {part: batch}. `get_state` and `set_state` are exact, and their state
    `{"next_index": step}` is valid for any number of processes.
    """
    import grain

    dataset = grain.MapDataset.source(batches)  # pyrefly: ignore[bad-argument-type]
    return iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)))


class CorpusBatches:
    """Random access to the endless batches of one process: `batches[step]` is its share of global batch `step`.

    An item holds a batch for every part of the corpus. A batch is a dict of arrays, where B is the process' share of
    `batch_size` and G is `group_size` or, if that is less, the largest number of responses in a record of the part:

        prompt int32[B, P], prompt_mask bool[B, P]      the prefix (`layout.split_prompt`), right-padded
        inputs, targets int32[B, G, R]                  start token and response, the response
        weights float32[B, G, R]                        1 on the tokens of the response, 0 on padding

    P and R are the longest prefix and response of the part, rounded up to 8. If `max_shapes` > 1, most batches are
    packed instead (`collate_packed`): B and G then count rows, and positions, questions and prompt_questions assign
    every token to its question.
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
        balance_window: int = 1,
        max_shapes: int = 1,
        row_multiple: int = 1,
        mixture: Mapping[str, float] | None = None,
        difficulty: Mapping[str, float] | None = None,
    ):
        """Opens the batches of some parts of a corpus.

        Args:
          readers: one reader per part.
          batch_size: entries per batch, over all processes.
          group_size: responses drawn per question.
          start_token: the model's first input of a response; None for a decoder-only model.
          seed: seed of permutations and draws.
          process_index: index of this process.
          process_count: number of processes, which divides `batch_size`.
          balance_window: number of batches over which questions are balanced by length; at most an epoch.
          max_shapes: maximum number of different batch shapes.
          row_multiple: the number of rows of every shape is a multiple of this.
          mixture: task -> relative share of the entries (`make_epochs`); by default all entries are equally frequent.
          difficulty: question id -> difficulty, for epochs from easy to hard (`make_epochs`); the batches of a window
            stay in random order.

        Raises:
          InputError: if the processes cannot share a batch equally, the parts hold different questions, or the mixture
            does not name the tasks of the corpus.
        """
        if batch_size % process_count:
            raise InputError(f"batch_size {batch_size} is not a multiple of the {process_count} processes")
        fingerprint = next(iter(readers.values())).fingerprint
        for name, reader in readers.items():
            if reader.fingerprint != fingerprint:
                raise InputError(
                    f"part {name!r} of the corpus holds other questions than {next(iter(readers))!r}: build it again"
                )
        self._num_entries = next(iter(readers.values())).entries
        self._seed, self._batch_size = seed, batch_size
        self._process, self._processes = process_index, process_count
        self._window = max(1, min(balance_window, self._num_entries // batch_size))
        self._draws = {name: PartDraws(reader, group_size, start_token) for name, reader in readers.items()}
        epochs = make_epochs(next(iter(readers.values())), seed, mixture, difficulty)
        self._epoch = functools.lru_cache(maxsize=2)(epochs)
        self._balanced = functools.lru_cache(maxsize=4)(self._balance)
        self.selected_shapes = SelectedShapes(1, (self._plain_shapes(),))
        if max_shapes > 1:
            multiple = math.lcm(row_multiple, process_count)
            self.selected_shapes = select_shapes(self.preview(), self._plain_shapes(), max_shapes, multiple)

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, step: int) -> dict[str, Batch]:
        draws = [self._draw(position) for position in self.positions(step)]
        shapes, rows = self.selected_shapes.shapes[-1], np.arange(self._batch_size)[:, None]
        if len(self.selected_shapes.shapes) > 1:
            shapes, rows = self.selected_shapes.assign(self._lengths(draws))
        own_rows = np.split(rows, self._processes)[self._process]
        return {name: self._collate(name, shape, draws, own_rows) for name, shape in shapes.items()}

    def positions(self, step: int) -> list[int]:
        """Returns the positions that make global batch `step`."""
        window, index = divmod(step, self._window)
        return self._balanced(window)[index].tolist()

    def texts(self, position: int) -> dict[str, tuple[list[int], list[list[int]]]]:
        """Returns for each part the prompt and the G drawn responses at a position, repeated if fewer are distinct."""
        texts = {}
        for name, draw in self._draw(position).items():
            example = self._draws[name].example(draw)
            texts[name] = example.prompt, [example.responses[g % len(example.responses)] for g in range(draw.count)]
        return texts

    def preview(self) -> list[BatchLengths]:
        """Returns the text lengths of the first batches: PREVIEW_BATCHES, or two epochs if that is less."""
        count = min(PREVIEW_BATCHES, max(self._window, -(-2 * self._num_entries // self._batch_size)))
        return [self._lengths([self._draw(i) for i in self.positions(step)]) for step in range(count)]

    def _plain_shapes(self) -> BatchShapes:
        """For each part the plain shape that every batch fits into."""
        shapes = {}
        for name, draws in self._draws.items():
            prompt, response = (round_up(length, 8) for length in draws.longest)
            shapes[name] = Shape(self._batch_size, prompt, draws.group_size, response, packed=False)
        return shapes

    def _draw(self, position: int) -> dict[str, Draw]:
        number, index = divmod(position, self._num_entries)
        epoch = self._epoch(number)
        entry, passes = int(epoch.entries[index]), int(epoch.passes[index])
        return {name: draws.draw(entry, self._seed, passes) for name, draws in self._draws.items()}

    def _lengths(self, draws: list[dict[str, Draw]]) -> BatchLengths:
        lengths = {}
        for name, part in self._draws.items():
            prompts, responses = zip(*(part.lengths(draw[name]) for draw in draws), strict=True)
            lengths[name] = TextLengths(np.array(prompts), np.stack(responses))
        return lengths

    def _balance(self, window: int) -> np.ndarray:
        """int64[W, B]: the positions of every batch of a window."""
        size = self._window * self._batch_size
        positions = np.arange(window * size, (window + 1) * size)
        if self._window == 1:
            return positions[None]
        lengths = self._lengths([self._draw(i) for i in positions.tolist()])
        batches = balance_lengths(question_lengths(lengths), self._window)
        return positions[batches][random_permutation(self._window, "window", self._seed, window)]

    def _collate(self, name: str, shape: Shape, draws: list[dict[str, Draw]], rows: np.ndarray) -> Batch:
        part = self._draws[name]
        examples = [[part.example(draws[i][name]) for i in row] for row in rows.tolist()]
        if shape.packed:
            return collate_packed(examples, shape, part.start_token)
        return collate_plain([example for (example,) in examples], shape, part.start_token)
