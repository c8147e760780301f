"""Ledger of responses: each ends in exactly one bin, counted per question, source and stage."""

from collections.abc import Mapping
from typing import Any

BINS = (
    "kept",
    "wrong",
    "unparsable",
    "no_rationale",
    "truncated",
    "too_short",
    "too_long",
    "duplicate",
    "near_duplicate",
    "contaminated",
    "over_cap",
    "not_selected",
)
# The stages of filters.py, in order, and the sub-sampling of the corpus (corpus/subsampling.py).
STAGES = (
    "questions",
    "n",
    "truncated",
    "unparsable",
    "keep",
    "tokens",
    "dedup",
    "near_duplicates",
    "decontaminate",
    "cap",
    "rationale",
    "max_responses",
)


class Ledger:
    """Counts of responses per bin, question, source (the model that generated them) and stage.

    Responses are counted three times, independently: by `receive` when they are read, by `record_stage` when a filter
    processes them, and by `put` when they go into a bin. `check` compares the three.
    """

    def __init__(self) -> None:
        self._received: dict[str, int] = {}
        self._bins: dict[str, dict[str, int]] = {}
        self._sources: dict[str, dict[str, int]] = {}
        self._source_totals: dict[str, int] = {}
        self._stages: dict[str, list[int]] = {}

    def receive(self, question_id: str, source: str = "", count: int = 1) -> None:
        """Counts responses that are read."""
        _add(self._received, question_id, count)
        _add(self._source_totals, source, count)

    def put(self, question_id: str, bin_: str, source: str = "", count: int = 1) -> None:
        """Counts responses into a bin.

        Raises:
          KeyError: if the bin is not one of `BINS`.
        """
        if bin_ not in BINS:
            raise KeyError(f"{bin_!r} is not a bin; there are {', '.join(BINS)}")
        _add(self._bins.setdefault(question_id, {}), bin_, count)
        _add(self._sources.setdefault(source, {}), bin_, count)

    def move(self, question_id: str, bin_: str, to: str, source: str = "") -> None:
        """Moves one response from a bin to another one.

        Raises:
          KeyError: if `to` is not one of `BINS`, or the bin has no response to the question from this source.
        """
        for counts in (self._bins[question_id], self._sources[source]):
            counts[bin_] -= 1
            if not counts[bin_]:
                del counts[bin_]
        self.put(question_id, to, source)

    def record_stage(self, name: str, received: int, dropped: int) -> None:
        """Counts responses that reach a stage, and those of them that it drops.

        Raises:
          KeyError: if the stage is not one of `STAGES`.
        """
        if name not in STAGES:
            raise KeyError(f"{name!r} is not a stage; there are {', '.join(STAGES)}")
        counts = self._stages.setdefault(name, [0, 0])
        counts[0] += received
        counts[1] += dropped

    def merge(self, report: Mapping[str, Any]) -> None:
        """Adds the counts of another ledger; `report` is its `to_json`."""
        for question_id, counts in report["per_question"].items():
            _add(self._received, question_id, sum(counts.values()))
            for bin_, count in counts.items():
                _add(self._bins.setdefault(question_id, {}), bin_, count)
        for source, facts in report["sources"].items():
            _add(self._source_totals, source, facts["total"])
            for bin_, count in facts["bins"].items():
                _add(self._sources.setdefault(source, {}), bin_, count)
        for stage in report["stages"]:
            self.record_stage(stage["stage"], stage["in"], stage["dropped"])

    def check(self) -> None:
        """Checks that the counts agree.

        Raises:
          RuntimeError: unless, for every question and source, the bins hold as many responses as were read, and every
            stage received the responses that passed the stage before.
        """
        for kind, totals, bins in (
            ("question", self._received, self._bins),
            ("source", self._source_totals, self._sources),
        ):
            for name in totals.keys() | bins.keys():
                total, binned = totals.get(name, 0), sum(bins.get(name, {}).values())
                if total != binned:
                    raise RuntimeError(f"ledger: {kind} {name!r} has {total} responses, {binned} in the bins")
        left = self.total
        for name, received, dropped in self._stages_in_order():
            if received != left:
                raise RuntimeError(f"ledger: stage {name!r} received {received}, {left} passed the one before")
            left -= dropped
        if self._stages and left != self.bins["kept"]:
            raise RuntimeError(f"ledger: {left} responses passed all stages, {self.bins['kept']} are kept")

    @property
    def total(self) -> int:
        """Number of responses read."""
        return sum(self._received.values())

    @property
    def bins(self) -> dict[str, int]:
        """Responses per bin over all questions, for every bin in the order of `BINS`."""
        return {bin_: sum(counts.get(bin_, 0) for counts in self._bins.values()) for bin_ in BINS}

    def sources_of(self, *bins: str) -> list[str]:
        """Sources with a response in any of the bins, sorted."""
        return sorted(source for source, counts in self._sources.items() if counts.keys() & set(bins))

    def num_passed(self, stage: str) -> int:
        """Returns the number of responses that passed a stage, and with it all stages before."""
        received, dropped = self._stages.get(stage, (0, 0))
        return received - dropped

    def summary(self) -> str:
        """Returns one line: how many responses are kept, and how many are in each other bin."""
        bins = self.bins
        dropped = ", ".join(f"{count} {name}" for name, count in bins.items() if count and name != "kept")
        return f"{bins['kept']} of {self.total} responses kept" + (f" ({dropped})" if dropped else "")

    def to_json(self) -> dict[str, Any]:
        """Returns the counts as JSON data.

        Returns:
          `total`, `bins`, `questions` (answered, with_kept), `stages` (in order: in, dropped, out), `sources` (per
          model its total and non-empty bins) and `per_question` (non-empty bins).

        Raises:
          RuntimeError: as `check` does.
        """
        self.check()
        with_kept = sum("kept" in counts for counts in self._bins.values())
        return {
            "total": self.total,
            "bins": self.bins,
            "questions": {"answered": len(self._received), "with_kept": with_kept},
            "stages": [
                {"stage": name, "in": received, "dropped": dropped, "out": received - dropped}
                for name, received, dropped in self._stages_in_order()
            ],
            "sources": {
                source: {"total": total, "bins": _in_order(self._sources[source])}
                for source, total in sorted(self._source_totals.items())
            },
            "per_question": {question_id: _in_order(counts) for question_id, counts in sorted(self._bins.items())},
        }

    def _stages_in_order(self) -> list[tuple[str, int, int]]:
        return [(name, self._stages[name][0], self._stages[name][1]) for name in STAGES if name in self._stages]


def _add(counts: dict[str, int], key: str, count: int) -> None:
    counts[key] = counts.get(key, 0) + count


def _in_order(counts: Mapping[str, int]) -> dict[str, int]:
    return {bin_: counts[bin_] for bin_ in BINS if bin_ in counts}
