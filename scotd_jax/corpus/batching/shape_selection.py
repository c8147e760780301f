"""In which few shapes the batches of a corpus are laid out, so that little of them is padding.

How many questions share a row, and which sizes there are, is chosen at the start by what the first batches would cost;
from then on every batch takes the cheapest of the chosen shapes that it fits into. The last of them, the plain one of
the longest texts of the corpus, fits everything, and is compiled only if it is needed.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from scotd_jax.corpus.batching.length_balancing import balance_lengths
from scotd_jax.corpus.batching.packing import rows_needed
from scotd_jax.corpus.batching.shapes import SEEN, Batch, Shape, Shapes, TextLengths, cost, padding, sides
from scotd_jax.layout import round_up

ALLOWED = 0.06  # of prompt tokens and of response tokens may be padding before another shape is taken
_WORTH = 100  # a shape must save at least one part in so many
_FEW = 16  # batches by which the number of questions in a row is chosen
_NEAR = 20  # a way that leaves less padding may cost one part in so many more than the cheapest
# Whole windows are a little larger than those looked at, and single questions much.
_ROOM = (32, 4)  # the usual shape is there again with one part in so many more
_NEVER = np.iinfo(np.int64).max


class ShapeRequirements:
    """What several batches need of a shape if k questions share a row."""

    def __init__(self, batches: Sequence[Batch], k: int):
        self.rows = len(next(iter(batches[0].values())).prompts) // k
        self.dealt = [
            balance_lengths(sides(batch), self.rows) for batch in batches
        ]  # which questions share a row, in all parts
        self.prompts: dict[str, np.ndarray] = {}  # int[batches], of the fullest row
        self.lengths: dict[str, np.ndarray] = {}  # int[batches, rows, k * G], of single responses
        for part in batches[0]:
            pairs = [(batch[part], dealt) for batch, dealt in zip(batches, self.dealt, strict=True)]
            self.prompts[part] = np.array([s.prompts[dealt].sum(1).max() for s, dealt in pairs])
            self.lengths[part] = np.stack([s.responses[dealt].reshape(self.rows, -1) for s, dealt in pairs])
        self._groups: dict[tuple[str, int], np.ndarray] = {}

    def group(self, part: str, width: int) -> np.ndarray:
        """int64[batches]: how many rows of that width the responses need."""
        if (part, width) not in self._groups:
            lengths = self.lengths[part]
            needed = rows_needed(lengths.reshape(-1, lengths.shape[2]), width)
            self._groups[part, width] = needed.reshape(lengths.shape[:2]).max(1)
        return self._groups[part, width]

    def fits(self, shapes: Shapes) -> np.ndarray:
        """bool[batches]"""
        within = [
            (self.prompts[part] <= shape.prompt) & (self.group(part, shape.response) <= shape.group)
            for part, shape in shapes.items()
        ]
        return np.all(within, axis=0)

    def candidates(self) -> list[Shapes]:
        """The best shape of every batch, the same made so large that all batches fit, both for several prompts."""
        grids: list[dict[str, tuple[int, int]]] = [{} for _ in range(2 * len(self.dealt))]
        for part, prompts in self.prompts.items():
            widths = _widths(self.lengths[part])
            groups = np.stack([self.group(part, int(width)) for width in widths])
            costs = groups * widths[:, None] * (SEEN + widths[:, None] + prompts)
            costs[groups > self.lengths[part].shape[2]] = _NEVER  # a response is longer than the row
            for t, i in enumerate(costs.argmin(0)):
                grids[2 * t][part] = int(groups[i, t]), int(widths[i])
                grids[2 * t + 1][part] = int(groups[i].max()), int(widths[i])
        found = {}
        for q in (0.5, 0.75, 0.9, 1.0):
            prompt = {p: round_up(int(np.quantile(n, q, method="higher")), 8) for p, n in self.prompts.items()}
            for grid in grids:
                shapes = {p: Shape(self.rows, prompt[p], *grid[p], packed=True) for p in prompt}
                if all(s.group <= self.lengths[p].shape[2] for p, s in shapes.items()):
                    found[tuple(shapes.values())] = shapes
        return list(found.values())


def _widths(lengths: np.ndarray) -> np.ndarray:
    """Widths of rows worth a look, for lengths [batches, rows, responses]: from the shortest possible in steps of a
    sixteenth, and those at which all responses would fill one to four rows."""
    totals = lengths.sum(2).max(1)  # of the fullest row
    begin = int(lengths.max((1, 2)).min())
    end = round_up(int(max(2 * lengths.max(), min(totals.max(), 1024))), 8)
    usual = [int(np.quantile(totals, q, method="higher")) for q in (0.5, 0.9, 1.0)]
    widths = {round_up(-(-total // rows), 8) for rows in (1, 2, 3, 4) for total in usual}
    width = round_up(begin, 8)
    while width <= end:
        widths.add(width)
        width = max(width + 8, round_up(width * 17 // 16, 8))
    return np.array(sorted(w for w in widths if begin <= w <= end))


class SelectedShapes(NamedTuple):
    """`questions` share a row of the packed shapes. The cheapest shape comes first, the plain one last: it fits all."""

    questions: int
    shapes: tuple[Shapes, ...]

    def of(self, batch: Batch) -> tuple[Shapes, np.ndarray]:
        """The shapes of a batch, and which of its questions share a row: int[rows, questions of a row]."""
        if len(self.shapes) > 1:
            needs = ShapeRequirements([batch], self.questions)
            for shapes in self.shapes[:-1]:
                if needs.fits(shapes)[0]:
                    return shapes, needs.dealt[0]
        return self.shapes[-1], np.arange(len(next(iter(batch.values())).prompts))[:, None]


def select_shapes(batches: Sequence[Batch], plain: Shapes, at_most: int, multiple: int) -> SelectedShapes:
    """The shapes for batches like these, one of `at_most` being `plain`, which fits everything.

    The number of rows is a multiple of `multiple`. Shapes are added, each the one that saves most, until less than
    ALLOWED of prompts and responses is padding; so where `plain` is tight it stays alone.
    """
    B = len(next(iter(batches[0].values())).prompts)
    ways = [k for k in range(1, B + 1) if B % k == 0 and (B // k) % multiple == 0]
    eights = [{part: TextLengths(*(side + -side % 8 for side in sizes)) for part, sizes in b.items()} for b in batches]
    if at_most < 2 or not ways or max(padding(eights, [plain] * len(batches))) < ALLOWED:
        return SelectedShapes(
            1, (plain,)
        )  # texts of a length stay as they are: what rounding costs is not worth packing for
    few = batches[:: -(-len(batches) // _FEW)]
    tried = {k: _chosen(few, ShapeRequirements(few, k), plain, at_most)[1:] for k in ways}
    least = min(total for _, total in tried.values())
    k = min((k for k in ways if tried[k][1] <= least + least // _NEAR), key=tried.get)
    return SelectedShapes(k, _chosen(batches, ShapeRequirements(batches, k), plain, at_most)[0])


def _chosen(
    batches: Sequence[Batch], needs: ShapeRequirements, plain: Shapes, at_most: int
) -> tuple[tuple[Shapes, ...], bool, int]:
    """The shapes, whether more than ALLOWED of the responses is padding in them, and what the batches cost."""
    candidates = needs.candidates()
    costs = np.array([cost(shapes) for shapes in candidates])[:, None]
    costs = np.where(np.stack([needs.fits(shapes) for shapes in candidates]), costs, _NEVER)  # [candidate, batch]
    best, taken, chosen = np.full(len(batches), cost(plain)), [plain] * len(batches), []
    most = max(1, at_most - 1 - len(_ROOM))  # beside the plain one, and those with room
    while len(chosen) < most and max(padding(batches, taken)) >= ALLOWED:
        after = np.minimum(costs, best).sum(1)
        i = int(after.argmin())
        if after[i] > best.sum() - best.sum() // _WORTH:
            break
        taken = [candidates[i] if costs[i, t] < best[t] else shapes for t, shapes in enumerate(taken)]
        best = np.minimum(costs[i], best)
        chosen.append(candidates[i])
    usual = max(chosen, key=taken.count, default={})
    prompts = {p: max(shapes[p].prompt for shapes in chosen) for p in usual}
    for part in _ROOM[max(0, len(_ROOM) + 2 - at_most) :] if chosen else ():
        larger = {p: _larger(dataclasses.replace(s, prompt=prompts[p]), plain[p], part) for p, s in usual.items()}
        chosen += [larger] * (cost(larger) < cost(plain))
    return (*sorted(chosen, key=cost), plain), padding(batches, taken)[1] > ALLOWED, int(best.sum())


def _larger(shape: Shape, plain: Shape, part: int) -> Shape:
    """Larger by one part in so many; the largest one is wide enough for the longest response."""
    prompt, response = (round_up(side + side // part, 8) for side in (shape.prompt, shape.response))
    return dataclasses.replace(shape, prompt=prompt, response=max(response, plain.response * (part == _ROOM[-1])))
