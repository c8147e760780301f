"""Selects the few array shapes in which the batches of a corpus are laid out, so that little of them is padding.

The number of questions per row and the shapes are selected once, at the start: those with the lowest cost of the first
batches. From then on every batch takes the cheapest selected shape that it fits into. The last shape is a plain one, as
large as the longest texts of the corpus: every batch fits into it, and it is compiled only if a batch needs it.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from scotd_jax.corpus.batching.length_balancing import balance_lengths
from scotd_jax.corpus.batching.packing import rows_needed
from scotd_jax.corpus.batching.shapes import (
    ATTENTION_BREAK_EVEN,
    BatchLengths,
    BatchShapes,
    Shape,
    TextLengths,
    cost,
    padding,
    question_lengths,
)
from scotd_jax.layout import round_up

# Values measured on OpenBookQA (22 rationales per question, G = 1, 5, 22) and QuaRel (5 per question) in tokens of OPT.
# In 32 batches of 32 questions after those of the preview, 3 to 10 % of the tokens are padding. Halving or doubling one
# value changes the cost of these batches by at most 5 %. Exception: with 4 trial batches, QuaRel costs 14 % more.
MAX_PADDING = 0.06  # share of prompt tokens and of response tokens above which another shape is added
_MIN_SAVING = 100  # another shape must save at least 1/100 of the cost
_TRIAL_BATCHES = 16  # number of batches whose cost decides the number of questions per row
_COST_TOLERANCE = 20  # accept up to 1/20 more compute than the cheapest layout for padding below MAX_PADDING
# The most frequent shape is added again, larger by 1/32 and by 1/4: later batches are a little larger than those
# of the preview, and batches with an unusually long question much larger.
_HEADROOM = (32, 4)
_NEVER = np.iinfo(np.int64).max  # cost of a shape that a batch does not fit into


class SelectedShapes(NamedTuple):
    """Selected shapes of a corpus.

    Attributes:
      questions_per_row: questions in a row of the packed shapes.
      shapes: the packed shapes, the cheapest first, and last the plain one, into which every batch fits.
    """

    questions_per_row: int
    shapes: tuple[BatchShapes, ...]

    def assign(self, batch: BatchLengths) -> tuple[BatchShapes, np.ndarray]:
        """Returns the cheapest shapes that fit a batch, and int[rows, questions per row]: the questions of each row."""
        if len(self.shapes) > 1:
            requirements = ShapeRequirements([batch], self.questions_per_row)
            for shapes in self.shapes[:-1]:
                if requirements.fits(shapes)[0]:
                    return shapes, requirements.assignments[0]
        return self.shapes[-1], np.arange(_batch_size(batch))[:, None]


def select_shapes(
    batches: Sequence[BatchLengths], plain: BatchShapes, max_shapes: int, row_multiple: int
) -> SelectedShapes:
    """Selects the shapes for a corpus whose batches resemble `batches`.

    Adds the shape that saves most, and repeats this until the padding of prompts and of responses is below MAX_PADDING.
    If `plain` leaves less padding than that, it is the only shape.

    Args:
      batches: text lengths of some batches of the corpus.
      plain: a plain shape that fits every batch.
      max_shapes: maximum number of shapes, including `plain`.
      row_multiple: the number of rows of every shape is a multiple of this.

    Returns:
      The number of questions per row and the shapes.
    """
    B = _batch_size(batches[0])
    candidates = [k for k in range(1, B + 1) if B % k == 0 and (B // k) % row_multiple == 0]
    # Lengths are rounded up to 8 first: rounding alone is no reason to pack.
    rounded = [{part: TextLengths(*(n + -n % 8 for n in lengths)) for part, lengths in b.items()} for b in batches]
    if max_shapes < 2 or not candidates or max(padding(rounded, [plain] * len(batches))) < MAX_PADDING:
        return SelectedShapes(1, (plain,))
    trial = batches[:: -(-len(batches) // _TRIAL_BATCHES)]
    selections = {k: _select(trial, ShapeRequirements(trial, k), plain, max_shapes) for k in candidates}
    cheapest = min(selection.cost for selection in selections.values())
    affordable = [k for k in candidates if selections[k].cost <= cheapest + cheapest // _COST_TOLERANCE]
    k = min(affordable, key=lambda k: (selections[k].is_padded, selections[k].cost))
    return SelectedShapes(k, _select(batches, ShapeRequirements(batches, k), plain, max_shapes).shapes)


class ShapeRequirements:
    """Required sizes of a shape for each of several batches, if k questions share a row.

    Attributes:
      assignments: for each batch int[rows, k], the questions of each row; the same in all parts.
      prompts: by part int[batches], prompt tokens of the fullest row.
      responses: by part int[batches, rows, k * G], tokens of each response (0: none).
    """

    def __init__(self, batches: Sequence[BatchLengths], k: int):
        self._num_rows = _batch_size(batches[0]) // k
        self.assignments = [balance_lengths(question_lengths(batch), self._num_rows) for batch in batches]
        self.prompts: dict[str, np.ndarray] = {}
        self.responses: dict[str, np.ndarray] = {}
        for part in batches[0]:
            pairs = [(batch[part], rows) for batch, rows in zip(batches, self.assignments, strict=True)]
            self.prompts[part] = np.array([lengths.prompts[rows].sum(1).max() for lengths, rows in pairs])
            self.responses[part] = np.stack(
                [lengths.responses[rows].reshape(self._num_rows, -1) for lengths, rows in pairs]
            )
        self._groups: dict[tuple[str, int], np.ndarray] = {}

    def group(self, part: str, width: int) -> np.ndarray:
        """Returns int64[batches]: the `Shape.group` that each batch needs if response rows are `width` tokens wide."""
        if (part, width) not in self._groups:
            lengths = self.responses[part]
            needed = rows_needed(lengths.reshape(-1, lengths.shape[2]), width)
            self._groups[part, width] = needed.reshape(lengths.shape[:2]).max(1)
        return self._groups[part, width]

    def fits(self, shapes: BatchShapes) -> np.ndarray:
        """Returns bool[batches]: whether each batch fits into the shapes."""
        fits_by_part = [
            (self.prompts[part] <= shape.prompt) & (self.group(part, shape.response) <= shape.group)
            for part, shape in shapes.items()
        ]
        return np.all(fits_by_part, axis=0)

    def candidates(self) -> list[BatchShapes]:
        """Returns candidate shapes: all combinations of a quantile of the prompt tokens and a response layout."""
        layouts = self._response_layouts()
        found = {}
        for quantile in (0.5, 0.75, 0.9, 1.0):
            prompts = {
                part: round_up(int(np.quantile(lengths, quantile, method="higher")), 8)
                for part, lengths in self.prompts.items()
            }
            for layout in layouts:
                shapes = {part: Shape(self._num_rows, prompts[part], *layout[part], packed=True) for part in prompts}
                if all(shape.group <= self._max_group(part) for part, shape in shapes.items()):
                    found[tuple(shapes.values())] = shapes
        return list(found.values())

    def _response_layouts(self) -> list[dict[str, tuple[int, int]]]:
        """Returns layouts of the responses, part -> (group, width).

        Each batch contributes two layouts. Both have the width that is cheapest for this batch; the group is the one
        that this batch needs, or the largest one that any batch needs.
        """
        layouts: list[dict[str, tuple[int, int]]] = [{} for _ in range(2 * len(self.assignments))]
        for part, prompts in self.prompts.items():
            widths = _candidate_widths(self.responses[part])
            groups = np.stack([self.group(part, int(width)) for width in widths])  # [width, batch]
            costs = groups * widths[:, None] * (ATTENTION_BREAK_EVEN + widths[:, None] + prompts)
            costs[groups > self._max_group(part)] = _NEVER  # a response is longer than the row
            for t, i in enumerate(costs.argmin(0)):
                layouts[2 * t][part] = int(groups[i, t]), int(widths[i])
                layouts[2 * t + 1][part] = int(groups[i].max()), int(widths[i])
        return layouts

    def _max_group(self, part: str) -> int:
        return self.responses[part].shape[2]


def _candidate_widths(lengths: np.ndarray) -> np.ndarray:
    """Candidate widths of response rows, for lengths int[batches, rows, responses].

    Widths grow in steps of 1/16 from the narrowest possible width, and include the widths at which the responses of
    typical batches fill one to four rows.
    """
    totals = lengths.sum(2).max(1)  # for each batch, the response tokens of the fullest row
    narrowest = int(lengths.max((1, 2)).min())
    widest = round_up(int(max(2 * lengths.max(), min(totals.max(), 1024))), 8)
    usual = [int(np.quantile(totals, quantile, method="higher")) for quantile in (0.5, 0.9, 1.0)]
    widths = {round_up(-(-total // rows), 8) for rows in (1, 2, 3, 4) for total in usual}
    width = round_up(narrowest, 8)
    while width <= widest:
        widths.add(width)
        width = max(width + 8, round_up(width * 17 // 16, 8))
    return np.array(sorted(w for w in widths if narrowest <= w <= widest))


class _Selection(NamedTuple):
    shapes: tuple[BatchShapes, ...]
    is_padded: bool  # more than MAX_PADDING of the responses is padding
    cost: int  # of all batches


def _select(
    batches: Sequence[BatchLengths], requirements: ShapeRequirements, plain: BatchShapes, max_shapes: int
) -> _Selection:
    """Selects shapes greedily for a given number of questions per row."""
    candidates = requirements.candidates()
    costs = np.array([cost(shapes) for shapes in candidates])[:, None]
    costs = np.where(np.stack([requirements.fits(shapes) for shapes in candidates]), costs, _NEVER)  # [shape, batch]
    best, assigned, selected = np.full(len(batches), cost(plain)), [plain] * len(batches), []
    limit = max(1, max_shapes - 1 - len(_HEADROOM))  # the rest are the plain shape and those with headroom
    while len(selected) < limit and max(padding(batches, assigned)) >= MAX_PADDING:
        totals = np.minimum(costs, best).sum(1)
        i = int(totals.argmin())
        if totals[i] > best.sum() - best.sum() // _MIN_SAVING:
            break
        assigned = [candidates[i] if costs[i, t] < best[t] else shapes for t, shapes in enumerate(assigned)]
        best = np.minimum(costs[i], best)
        selected.append(candidates[i])
    if selected:
        selected += _with_headroom(selected, assigned, plain, max_shapes)
    is_padded = padding(batches, assigned)[1] > MAX_PADDING
    return _Selection((*sorted(selected, key=cost), plain), is_padded, int(best.sum()))


def _with_headroom(
    selected: list[BatchShapes], assigned: list[BatchShapes], plain: BatchShapes, max_shapes: int
) -> list[BatchShapes]:
    """The most frequent of the selected shapes, enlarged by the fractions of _HEADROOM that max_shapes allows."""
    frequent = max(selected, key=assigned.count)
    enlarged: list[BatchShapes] = []
    for fraction in _HEADROOM[max(0, len(_HEADROOM) + 2 - max_shapes) :]:
        shapes = {}
        for part, shape in frequent.items():
            prompt = max(other[part].prompt for other in selected)
            response = round_up(shape.response + shape.response // fraction, 8)
            if fraction == _HEADROOM[-1]:  # the largest one is wide enough for the longest response
                response = max(response, plain[part].response)
            prompt = round_up(prompt + prompt // fraction, 8)
            shapes[part] = dataclasses.replace(shape, prompt=prompt, response=response)
        if cost(shapes) < cost(plain):
            enlarged.append(shapes)
    return enlarged


def _batch_size(batch: BatchLengths) -> int:
    return len(next(iter(batch.values())).prompts)
