"""Encodes a question and its responses as grouped examples: fills in the templates and tokenizes the texts.

Imported by worker processes, so nothing here may import JAX.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from scotd_jax.config import Corpus, Recipe
from scotd_jax.corpus.grouped_example import GroupedExample
from scotd_jax.records import Prompt, Question, Response
from scotd_jax.tasks import recipes
from scotd_jax.tasks.exemplars import join_prompt
from scotd_jax.tasks.prompt_formats import PromptFormat
from scotd_jax.tokenization import PromptEncoder

ExamplesByPart = dict[str, list[GroupedExample]]


class PromptedQuestion(NamedTuple):
    """A question, the format of its prompt, and the few-shot examples before it (text, or chat turns)."""

    question: Question
    format: PromptFormat
    few_shot: Prompt = ""


class ExampleEncoder(NamedTuple):
    """Encodes questions and responses for one corpus.

    Attributes:
      corpus: settings of the corpus.
      recipe: recipe of the corpus.
      encoder: tokenizes prompts and targets.
      uses_responses: whether the recipe uses responses.
    """

    corpus: Corpus
    recipe: Recipe
    encoder: PromptEncoder
    uses_responses: bool

    def encode(self, prompted: PromptedQuestion, rows: Sequence[Response]) -> ExamplesByPart:
        """Returns the examples of all parts of the recipe. Every text is encoded once.

        A corpus that is balanced over responses has an example for each of them.
        """
        question, prompt_format, few_shot = prompted
        one_per_response = self.corpus.balance == "responses" and bool(rows)
        texts: list[tuple[str, str, list[tuple[int, str]]]] = []  # part, prompt, [(sample index, target)]
        for name, part in self.recipe.parts.items():
            for group in [[row] for row in rows] if one_per_response else [rows]:
                for prompt, targets in recipes.training_examples(part, prompt_format, question, group):
                    rendered = self.encoder.render(join_prompt(few_shot, prompt))
                    if one_per_response:
                        targets = [(group[0].sample_index, text) for _, text in targets]
                    texts.append((name, rendered, targets))
        distinct: dict[str, None] = {}  # a set in order of appearance
        for _, prompt, targets in texts:
            distinct |= dict.fromkeys([prompt, *(text for _, text in targets)])
        ids = dict(zip(distinct, self.encoder(list(distinct)), strict=True))
        # A target that ends in a stop string needs no end token (SCoTD trains OPT without one).
        end = [] if prompt_format.end else [self.encoder.end_id]
        examples: ExamplesByPart = {name: [] for name in self.recipe.parts}
        for name, prompt, targets in texts:
            examples[name].append(
                GroupedExample(
                    question_id=question.id,
                    task=question.task,
                    prompt=[*self.encoder.prefix_ids, *ids[prompt], *self.encoder.suffix_ids],
                    responses=[ids[text] + end for _, text in targets],
                    sample_index=[index for index, _ in targets],
                )
            )
        return examples

    def select(self, examples: ExamplesByPart, samples: Collection[int]) -> ExamplesByPart:
        """Returns the examples reduced to some samples of the question; `samples` must not be empty."""
        wanted, selected = set(samples), {}
        for name, found in examples.items():
            if not self._is_one_per_question(name):
                found = [part for example in found if (part := example.select_samples(wanted)) is not None]
            selected[name] = found
        return selected

    def token_counts(self, examples: ExamplesByPart, samples: Sequence[int]) -> list[tuple[int, int]]:
        """Returns for each sample the tokens of its longest prompt and of its longest target, over all parts."""
        longest = dict.fromkeys(samples, (0, 0))
        for name, found in examples.items():
            for example in found:
                if self._is_one_per_question(name):
                    pairs = [(sample, example.responses[0]) for sample in samples]
                else:
                    pairs = list(zip(example.sample_index, example.responses, strict=True))
                for sample, response in pairs:
                    prompt, target = longest[sample]
                    longest[sample] = max(prompt, len(example.prompt)), max(target, len(response))
        return [longest[sample] for sample in samples]

    def _is_one_per_question(self, name: str) -> bool:
        """Whether a part has a single example per question, independent of the responses."""
        part = self.recipe.parts[name]
        response_fields = recipes.template_fields(part.prompt, part.target) & set(recipes.RESPONSE_FIELDS)
        return not response_fields and (self.corpus.balance == "questions" or not self.uses_responses)
