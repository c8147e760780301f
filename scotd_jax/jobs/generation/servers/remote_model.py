"""A model behind a server, with the same prompts and the same parsing of responses as a local model."""

import dataclasses
from typing import Any

from scotd_jax import config as c
from scotd_jax.jobs.context import RunContext
from scotd_jax.jobs.generation.prompting import PromptBuilder, describe, make_response, source_prompt_settings
from scotd_jax.jobs.generation.servers.requests import keyed_seed, request_body
from scotd_jax.jobs.generation.thinking import ThinkingBlocks
from scotd_jax.rationales.importers.imported import ImportedResponse
from scotd_jax.records import Prompt, Question, Response
from scotd_jax.sampling.requests import Sample
from scotd_jax.tasks.base import LoadedTask


@dataclasses.dataclass(frozen=True)
class RemoteModel:
    """The model of one set of responses, on a server or behind batch files.

    Attributes:
      server: the server.
      sampling: the sampling policy.
      seed: seed of the requests.
      where: config path of the set, for messages.
      prompts: how the model is prompted.
      thinking: how thinking blocks in its responses are treated.
    """

    server: c.Server
    sampling: c.Sampling
    seed: int
    where: str
    prompts: PromptBuilder
    thinking: ThinkingBlocks

    @property
    def name(self) -> str:
        """The name of the model on its server."""
        return self.server.model

    def prompt(self, question: Question, task: LoadedTask, rationale: str | None = None) -> Prompt:
        """Returns the complete prompt for a question."""
        return self.prompts.prompt(question, task, rationale)

    def request_body(self, question: Question, task: LoadedTask, first: int, count: int = 1) -> dict[str, Any]:
        """Returns the body of a request for `count` samples of a question, the first of which has index `first`.

        Its seed depends only on the config's seed, the question and `first`, so that it is the same in every run.
        """
        seed = keyed_seed(self.seed, question.id, first)
        stops = self.prompts.format_for(task).stops
        return request_body(self.server, self.sampling, self.prompt(question, task), stops, count, seed)

    def respond(self, generated: ImportedResponse, question: Question, task: LoadedTask, index: int) -> Response:
        """Parses a generated text as sample `index`.

        Raises:
          InputError: on a thinking block, if the config sets no treatment.
        """
        assert generated.text is not None, "responses without text are filtered out earlier"
        logprob, num_tokens = generated.logprob or 0.0, generated.num_tokens or 0
        sample = Sample(question.id, index, generated.text, generated.finish_reason, logprob, num_tokens, ())
        return make_response(
            sample,
            question,
            task,
            prompts=self.prompts,
            thinking=self.thinking,
            model=self.name,
            sampling=describe(self.sampling),
        )


def make_remote_model(context: RunContext, spec: c.RemoteSource, seed: int, where: str) -> RemoteModel:
    """Returns the model of a set of responses. `where` is the config path of the set."""
    settings = source_prompt_settings(context.config, spec, where)
    thinking = ThinkingBlocks.of(spec, where, spec.server.model)
    return RemoteModel(spec.server, spec.sampling, seed, where, context.prompt_builder(settings), thinking)
