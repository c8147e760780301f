"""A model that speaks elsewhere: it is asked as one of ours would be, and what it says is read in the same way."""

import dataclasses
import functools
from collections.abc import Iterator

from scotd_jax import config as c
from scotd_jax.errors import InputError
from scotd_jax.jobs.run import Run
from scotd_jax.jobs.speaking import Speaker, describe, respond
from scotd_jax.rationales.importers import texts
from scotd_jax.rationales.importers.base import Said
from scotd_jax.rationales.remote import Prompt, keyed, request_body
from scotd_jax.records import Question, Response
from scotd_jax.sampling.requests import Sample
from scotd_jax.tasks import recipes
from scotd_jax.tasks.base import Task
from scotd_jax.tasks.exemplars import load_exemplars
from scotd_jax.tasks.formats import is_correct


class Remote:
    """The speaker of one set of responses. `where` is the set's place in the config."""

    def __init__(self, run: Run, spec: c.Rationales, seed: int, where: str):
        recipe, style, _ = run.manner(c.Model())
        if spec.recipe:
            recipe = run.recipe_named(spec.recipe, f"{where}.recipe")
        self.speaker = Speaker(spec.server.model, None, None, None, recipe, style, spec.few_shot, run.prefix)
        self.server, self.sampling, self.where = spec.server, spec.sampling, where
        self._seed, self._run, self._think = seed, run, spec.options.get("think")
        self._turns = functools.cache(self._exemplars)

    def body(self, question: Question, task: Task, first: int, count: int = 1) -> dict:
        """The request for `count` samples of a question. Its seed follows from the name of the first of them."""
        seed = keyed(self._seed, question.id, first)
        stops = self.speaker.style(task).stops
        return request_body(self.server, self.sampling, self.prompt(question, task), stops, count, seed)

    def prompt(self, question: Question, task: Task) -> Prompt:
        """The text that a model of ours would be given; for a chat its exemplars are turns that came before."""
        if self.server.kind == "completions":
            return self.speaker.prompt(question, task)
        ask = recipes.prompt(self.speaker.recipe, self.speaker.style(task), question)
        return [*self._turns(task), {"role": "user", "content": ask}]

    def response(self, said: Said, question: Question, task: Task, index: int) -> Response:
        """The record of what was said. Its text ends before the format's stop string, also where the server kept it.

        Raises InputError on a <think> block of which the options do not say what is to become.
        """
        block = texts.thought(said.text)
        if block is not None and self._think is None:
            raise InputError(
                f"{self.where}.options: {self.server.model} answers with a <think> block; say what is to become of it: "
                "options={'think': 'keep'} leaves it in the text, 'strip' removes it, 'rationale' takes what is inside "
                "as the rationale. Stop strings may end it early; server.extra={'stop': None} sends none"
            )
        style = self.speaker.style(task)
        text = said.text if block is None or self._think == "keep" else block.rest
        ended = said.finish_reason
        if block is None or self._think != "keep":
            ended = "stop" if any(stop in text.lstrip("\n") for stop in style.stops) else ended
            text = style.cut(text)
        if block is not None and not block.closed:  # cut while it was thinking
            text, ended = said.text, "length"
        sample = Sample(question.id, index, text, ended, said.logprob or 0.0, said.num_tokens or 0, ())
        row = respond(sample, question, task, self.speaker, describe(self.sampling))
        if block is not None and not block.closed:
            return dataclasses.replace(row, rationale=None, answer=None, correct=is_correct(None, question))
        return dataclasses.replace(row, rationale=block.inside) if block and self._think == "rationale" else row

    def _exemplars(self, task: Task) -> tuple[dict[str, str], ...]:
        return tuple(self._said_before(task)) if self.speaker.few_shot else ()

    def _said_before(self, task: Task) -> Iterator[dict[str, str]]:
        style, count = self.speaker.style(task), self.speaker.few_shot
        self.speaker.prefix(task, style, count)  # says it when there are too few
        for exemplar in load_exemplars(self._run.config.tasks[task.name].exemplars, task)[:count]:
            said = style.target(exemplar.rationale, exemplar.question.answer)
            yield {"role": "user", "content": style.prompt(exemplar.question)}
            yield {"role": "assistant", "content": said.removesuffix(style.end) if style.end else said}
