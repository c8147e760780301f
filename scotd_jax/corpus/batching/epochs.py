"""Order of the entries in an epoch: by default each once at random, or with a share of the positions for each task.

With a curriculum, every epoch is sorted from easy to hard entries; those of equal difficulty stay in random order.
"""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from scotd_jax.corpus.reader import CorpusReader
from scotd_jax.errors import InputError, list_names
from scotd_jax.keyed_random import random_permutation


class Epoch(NamedTuple):
    """An epoch: as many positions as the corpus has entries.

    Attributes:
      entries: int64[positions], the entry at every position.
      passes: int64[positions], how often the entry has been drawn before. It keys the draw of a response.
    """

    entries: np.ndarray
    passes: np.ndarray


@dataclasses.dataclass(frozen=True)
class Epochs:
    """The epochs of a corpus, each a pure function of the seed and its number.

    Attributes:
      num_entries: number of entries of the corpus, and of positions of an epoch.
      seed: seed of the order.
      tasks: per task the numbers of its entries, and its positions in every epoch; () for no mixture.
      difficulty: difficulty of every entry, by which epochs are sorted; None for a random order.
    """

    num_entries: int
    seed: int
    tasks: tuple[tuple[np.ndarray, int], ...] = ()
    difficulty: np.ndarray | None = None

    def __call__(self, epoch: int) -> Epoch:
        """Returns an epoch.

        With a mixture, each task has an endless sequence of permutations of its entries, and an epoch takes the next
        ones of every task. Entries of a task with a small share may not occur in it, and others occur several times.
        """
        order = random_permutation(self.num_entries, "epoch", self.seed, epoch)
        shuffled = Epoch(order, np.full(self.num_entries, epoch))
        if self.tasks:
            entries, passes = zip(*(self._next(number, epoch) for number in range(len(self.tasks))), strict=True)
            shuffled = Epoch(np.concatenate(entries)[order], np.concatenate(passes)[order])
        if self.difficulty is None:
            return shuffled
        by_difficulty = np.argsort(self.difficulty[shuffled.entries], kind="stable")
        return Epoch(shuffled.entries[by_difficulty], shuffled.passes[by_difficulty])

    def _next(self, number: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        entries, count = self.tasks[number]
        passes, index = np.divmod(np.arange(epoch * count, (epoch + 1) * count), len(entries))
        orders = {k: random_permutation(len(entries), "task", self.seed, number, k) for k in np.unique(passes).tolist()}
        return entries[[orders[k][i] for k, i in zip(passes.tolist(), index.tolist(), strict=True)]], passes


def make_epochs(
    reader: CorpusReader,
    seed: int,
    mixture: Mapping[str, float] | None = None,
    difficulty: Mapping[str, float] | None = None,
) -> Epochs:
    """Returns the epochs of a corpus.

    Args:
      reader: a part of the corpus.
      seed: seed of the order.
      mixture: task -> share of the positions, relative to the others; None or {} draws every entry equally often.
      difficulty: question id -> difficulty, by which every epoch is sorted; None for a random order.

    Raises:
      InputError: if the mixture does not name exactly the tasks of the corpus, or a share is less than one position.
    """
    size = reader.entries
    by_entry = None
    if difficulty is not None:
        by_entry = np.array([difficulty[reader[reader.records(entry)[0]].question_id] for entry in range(size)])
    if not mixture:
        return Epochs(size, seed, difficulty=by_entry)
    names = np.array([reader[reader.records(entry)[0]].task for entry in range(size)])
    if unequal := sorted(set(names.tolist()) ^ set(mixture)):
        raise InputError(
            f"mixture: {unequal[0]!r} is only in the mixture or only in the corpus, whose questions have the tasks "
            f"{list_names(sorted(set(names.tolist())))}; name exactly these"
        )
    exact = {name: size * share / sum(mixture.values()) for name, share in mixture.items()}
    counts = {name: int(share) for name, share in exact.items()}
    # The positions that remain after rounding go to the largest fractions.
    for name in sorted(exact, key=lambda name: counts[name] - exact[name])[: size - sum(counts.values())]:
        counts[name] += 1
    if empty := [name for name, count in counts.items() if not count]:
        raise InputError(f"mixture: the share of {empty[0]!r} is less than one of {size} questions; raise it")
    tasks = tuple((np.flatnonzero(names == name), count) for name, count in counts.items())
    return Epochs(size, seed, tasks, by_entry)
