"""Whether an imported corpus knows the answers at all: one that was joined in the wrong order agrees at chance."""

from scotd_jax.records import Response

ENOUGH = 50  # rows with choices and a gold answer that a comparison with chance needs
LEVEL = 0.01  # of the one-sided binomial test


class ChanceCheck:
    """Agreement with the gold answers of questions with choices, against guessing."""

    def __init__(self) -> None:
        self.rows = self.right = self.none = 0
        self.guessed = 0.0  # expected number of right guesses

    def add(self, choices: int, response: Response) -> None:
        """Counts a response to a question with so many choices."""
        if choices > 1 and response.correct is not None:
            self.rows += 1
            self.right += response.correct
            self.none += response.answer is None
            self.guessed += 1 / choices

    def refusal(self) -> str | None:
        """Why the corpus is refused: so many right answers or more are not unlikely by guessing. None if it is not."""
        if self.rows < ENOUGH:
            return None
        from scipy.stats import binom

        chance = self.guessed / self.rows
        if binom.sf(self.right - 1, self.rows, chance) < LEVEL:
            return None
        cause = "its rows were probably joined to the questions in the wrong order"
        if 2 * self.none > self.rows:
            cause = (
                f"in {self.none} rows no answer could be read: they probably do not use the marker of the task's "
                "format (option 'answer': a regular expression with one group)"
            )
        return (
            f"{self.right} of {self.rows} answers agree with the gold ones ({self.right / self.rows:.1%}), no better "
            f"than chance ({chance:.1%}): {cause}. To import it all the same: option allow_chance=True"
        )
