"""Blocks of thought, <think>...</think>: what a model that reasons by itself says before it answers."""

import dataclasses
from typing import NamedTuple

from scotd_jax.config import GeneratedSource, Recipe
from scotd_jax.errors import InputError
from scotd_jax.rationales.importers.answer_extraction import find_thinking_block
from scotd_jax.records import Question
from scotd_jax.sampling.requests import Sample
from scotd_jax.tasks import recipes
from scotd_jax.tasks.prompt_formats import Parsed, PromptFormat


class Thinking(NamedTuple):
    """How such blocks are read in one set of responses; `where` is its place in the config, `speaker` the model."""

    spec: GeneratedSource
    where: str
    speaker: str

    @property
    def what(self) -> str | None:
        """What is to become of them: "keep", "strip" or "rationale"; None if nobody has said."""
        return self.spec.think or None

    def read(self, sample: Sample, question: Question, recipe: Recipe, style: PromptFormat) -> tuple[Sample, Parsed]:
        """The sample as it is kept, and what it says. Its text ends before the format's stop string, unless that may
        stand in a block that is kept. Who was cut while thinking has said nothing yet.

        Raises InputError on a block if `what` is None.
        """
        block = find_thinking_block(sample.text)
        if block is not None and self.what is None:
            raise InputError(f"{self.where}.think: {self.speaker} answers with a <think> block; {self._advice}")
        if block is not None and not block.closed:
            return dataclasses.replace(sample, finish_reason="length"), Parsed(None, None)
        if self._is_uncut and (block is None or self.what != "keep"):
            text = sample.text if block is None else block.rest
            ended = "stop" if any(stop in text.lstrip("\n") for stop in style.stops) else sample.finish_reason
            sample = dataclasses.replace(sample, text=style.truncate(text), finish_reason=ended)
        parsed = recipes.parse_response(recipe, style, sample.text, question)
        if block is not None and self.what == "rationale":
            parsed = parsed._replace(rationale=block.thinking)
        return sample, parsed

    @property
    def _is_uncut(self) -> bool:
        """Whether texts come with whatever follows a stop string: from servers, and where none was given (`stops`)."""
        return self.spec.source != "model" or self.what is not None

    @property
    def _advice(self) -> str:
        advice = (
            "say what is to become of it: think='keep' leaves it in the text, 'strip' removes it, "
            "'rationale' takes what is inside as the rationale"
        )
        if self.spec.source == "model":
            return advice
        return f"{advice}. Stop strings may end it early; server.extra_body={{'stop': None}} sends none"
