"""Thinking blocks, `<think>...</think>`, in the responses of models that reason before they answer."""

import dataclasses
from collections.abc import Callable
from typing import Literal

from scotd_jax.config import GeneratedSource, ModelSource
from scotd_jax.errors import InputError
from scotd_jax.rationales.importers.answer_extraction import find_thinking_block
from scotd_jax.sampling.requests import Sample
from scotd_jax.tasks.prompt_formats import Parsed, PromptFormat


@dataclasses.dataclass(frozen=True)
class ThinkingBlocks:
    """How the thinking blocks of one set of responses are treated.

    Attributes:
      mode: "ignore" parses the text as if there were no blocks. "refuse" raises on a block, because the config sets no
        treatment. "keep" leaves blocks in the text, "strip" removes them, "rationale" removes them and stores their
        contents as the rationale.
      where: config path of the set, for messages.
      model: name of the model, for messages.
      remote: whether a server generated the text, which may continue after a stop string.
    """

    mode: Literal["ignore", "refuse", "keep", "strip", "rationale"] = "ignore"
    where: str = ""
    model: str = ""
    remote: bool = False

    @classmethod
    def of(cls, spec: GeneratedSource, where: str, model: str) -> "ThinkingBlocks":
        """Returns the treatment that the field `think` of a set of responses selects."""
        return cls(spec.think or "refuse", where, model, remote=not isinstance(spec, ModelSource))

    @property
    def is_chosen(self) -> bool:
        """Whether the config sets a treatment. Stop strings are then not sent, since blocks may contain them."""
        return self.mode in ("keep", "strip", "rationale")

    def parse(
        self, sample: Sample, prompt_format: PromptFormat, parse: Callable[[str], Parsed]
    ) -> tuple[Sample, Parsed]:
        """Returns the sample as it is stored, and its rationale and answer by `parse`.

        Truncates the text at the format's stop strings if the sampler has not, unless a block is kept. A response that
        was truncated inside a block has neither rationale nor answer.

        Raises:
          InputError: on a block, if the mode is "refuse".
        """
        if self.mode == "ignore":
            return sample, parse(sample.text)
        block = find_thinking_block(sample.text)
        if block is not None and not self.is_chosen:
            raise InputError(f"{self.where}.think: {self.model} generates <think> blocks; {self._advice}")
        if block is not None and not block.closed:
            return dataclasses.replace(sample, finish_reason="length"), Parsed(None, None)
        is_uncut = self.remote or self.is_chosen
        if is_uncut and (block is None or self.mode != "keep"):
            text = sample.text if block is None else block.rest
            stopped = any(stop in text.lstrip("\n") for stop in prompt_format.stops)
            finish_reason = "stop" if stopped else sample.finish_reason
            sample = dataclasses.replace(sample, text=prompt_format.truncate(text), finish_reason=finish_reason)
        parsed = parse(sample.text)
        if block is not None and self.mode == "rationale":
            parsed = parsed._replace(rationale=block.thinking)
        return sample, parsed

    @property
    def _advice(self) -> str:
        advice = (
            "choose a treatment: think='keep' leaves them in the text, 'strip' removes them, "
            "'rationale' stores their contents as the rationale"
        )
        if not self.remote:
            return advice
        return f"{advice}. Stop strings may end a block early; server.extra_body={{'stop': None}} sends none"


IGNORE_THINKING = ThinkingBlocks()
