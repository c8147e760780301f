"""Where every row of the imported files went: imported, or skipped for one reason. Per file and in total."""

from typing import Any

FIRST = 5  # places that are told per reason


class ImportLedger:
    """Counts rows per file. A row is one response, or one record that could not be read as any.

    Rows are counted twice, independently: `read` when one comes, `imported` or `skipped` when it is decided where it
    goes. `check` compares the two.
    """

    def __init__(self, files: list[str]) -> None:
        self._files: dict[str, dict[str, Any]] = {
            file: {"read": 0, "imported": 0, "skipped": {}, "right": 0, "wrong": 0, "no_answer": 0, "no_gold": 0}
            for file in files
        }
        self._questions: dict[str, set[str]] = {file: set() for file in files}

    def count_read(self, file: str) -> None:
        self._files[file]["read"] += 1

    def count_imported(self, file: str, question_id: str, answer: str | None, correct: bool | None) -> None:
        """Counts a response by its answer: none, right, wrong, or not comparable for want of a gold answer."""
        counts = self._files[file]
        counts["imported"] += 1
        counts[
            "no_answer" if answer is None else "no_gold" if correct is None else "right" if correct else "wrong"
        ] += 1
        self._questions[file].add(question_id)

    def count_skipped(self, file: str, reason: str, where: str) -> None:
        bin_ = self._files[file]["skipped"].setdefault(reason, {"rows": 0, "first": []})
        bin_["rows"] += 1
        if len(bin_["first"]) < FIRST:
            bin_["first"].append(where)

    def check(self) -> None:
        """Raises RuntimeError unless, for every file, as many rows are imported or skipped as were read."""
        for file, counts in self._files.items():
            skipped = sum(bin_["rows"] for bin_ in counts["skipped"].values())
            if counts["read"] != counts["imported"] + skipped:
                found = f"{counts['read']} rows read, {counts['imported']} imported, {skipped} skipped"
                raise RuntimeError(f"import ledger: {file}: {found}")

    @property
    def num_skipped(self) -> int:
        """Rows that were skipped, over all files."""
        return sum(bin_["rows"] for counts in self._files.values() for bin_ in counts["skipped"].values())

    def to_json(self) -> dict[str, Any]:
        """Plain data: `total` and, per file, `read`, `imported`, `skipped` (reason -> rows, first places), the answers
        (`right`, `wrong`, `no_answer`, `no_gold`) and the number of `questions`. Raises RuntimeError as `check` does.
        """
        self.check()
        total: dict[str, Any] = {"read": 0, "imported": 0, "skipped": {}, "right": 0, "wrong": 0, "no_answer": 0}
        total |= {"no_gold": 0}
        for counts in self._files.values():
            for key in total:
                if key != "skipped":
                    total[key] += counts[key]
            for reason, bin_ in counts["skipped"].items():
                total["skipped"][reason] = total["skipped"].get(reason, 0) + bin_["rows"]
        total["questions"] = len(set().union(*self._questions.values()))
        files = {file: counts | {"questions": len(self._questions[file])} for file, counts in self._files.items()}
        return {"total": total, "files": files}

    def summary(self) -> str:
        """One line: how many rows were imported and why the others were not."""
        total = self.to_json()["total"]
        took = ", ".join(f"{rows} {reason}" for reason, rows in total["skipped"].items())
        return f"{total['imported']} of {total['read']} rows imported" + (f" (skipped: {took})" if took else "")
