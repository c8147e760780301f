"""A model that speaks elsewhere: it is asked as one of ours would be, and what it says is read in the same way."""

from scotd_jax import config as c
from scotd_jax.jobs.context import Run
from scotd_jax.jobs.generation.local import Speaker, describe, respond
from scotd_jax.jobs.generation.servers.requests import keyed, request_body
from scotd_jax.jobs.generation.thinking import Thinking
from scotd_jax.rationales.importers.imported import ImportedResponse
from scotd_jax.records import Question, Response
from scotd_jax.sampling.requests import Sample
from scotd_jax.tasks.base import LoadedTask


class Remote:
    """The speaker of one set of responses. `where` is the set's place in the config."""

    def __init__(self, run: Run, spec: c.RemoteSource, seed: int, where: str):
        recipe, style, _ = run.manner(c.Model())
        if spec.recipe:
            recipe = run.recipe_named(spec.recipe, f"{where}.recipe")
        name, before = spec.server.model, run.turns if spec.server.kind == "chat" else run.prefix
        thinking = Thinking(spec, where, name)
        self.speaker = Speaker(name, None, None, None, recipe, style, spec.few_shot, before, thinking)
        self.server, self.sampling, self.where, self._seed = spec.server, spec.sampling, where, seed

    def body(self, question: Question, task: LoadedTask, first: int, count: int = 1) -> dict:
        """The request for `count` samples of a question. Its seed follows from the name of the first of them."""
        seed = keyed(self._seed, question.id, first)
        stops = self.speaker.style(task).stops
        return request_body(self.server, self.sampling, self.speaker.prompt(question, task), stops, count, seed)

    def response(self, said: ImportedResponse, question: Question, task: LoadedTask, index: int) -> Response:
        """The record of what was said. Raises InputError as `Thinking.read` does."""
        scores = said.logprob or 0.0, said.num_tokens or 0
        sample = Sample(question.id, index, said.text, said.finish_reason, *scores, ())
        return respond(sample, question, task, self.speaker, describe(self.sampling))
