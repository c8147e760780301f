"""Generation with a local model, for sampling from teachers and for evaluating students."""

import array
import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence

import jax
from etils import epath

from scotd_jax import config as c
from scotd_jax.distributed.profiling import profile_steps
from scotd_jax.jobs.context import RunContext
from scotd_jax.jobs.generation.prompting import PromptBuilder, PromptSettings, describe, make_response
from scotd_jax.jobs.generation.thinking import IGNORE_THINKING, ThinkingBlocks
from scotd_jax.jobs.generation.writing import write_missing
from scotd_jax.layout import shared_length
from scotd_jax.models import api
from scotd_jax.records import Prompt, Question, Response
from scotd_jax.sampling.decode_pass import SamplerStats
from scotd_jax.sampling.requests import Request, Sample
from scotd_jax.sampling.sampler import Sampler
from scotd_jax.tasks.base import LoadedTask
from scotd_jax.tasks.exemplars import join_prompt
from scotd_jax.tasks.question_loader import QuestionsById
from scotd_jax.tokenization import Tokenizer

RationalesById = Mapping[str, Sequence[str]]  # question id -> rationales, each for one prompt


@dataclasses.dataclass(frozen=True)
class PromptedModel:
    """A local model with its parameters, its tokenizer, and its prompt builder.

    Attributes:
      name: name in the records and in progress lines.
      model: the model functions.
      params: parameters on the devices of the data group, or abstract ones (`api.LanguageModel.abstract`) if the
        parameters of the sampler are set later, as during training.
      tokenizer: the tokenizer.
      prompts: builds the prompts.
      thinking: how thinking blocks in responses are treated.
    """

    name: str
    model: api.LanguageModel
    params: api.Params
    tokenizer: Tokenizer
    prompts: PromptBuilder
    thinking: ThinkingBlocks = IGNORE_THINKING

    def prompt(self, question: Question, task: LoadedTask, rationale: str | None = None) -> Prompt:
        """Returns the complete prompt for a question."""
        return self.prompts.prompt(question, task, rationale)

    def prompt_ids(self, question: Question, task: LoadedTask, rationale: str | None = None) -> list[int]:
        """Returns the token ids of a prompt."""
        return self.tokenizer.prompt_ids(self.prompt(question, task, rationale), self.model.config.kind)

    def stop_strings(self, questions: QuestionsById) -> tuple[str, ...]:
        """Returns the strings that end a response to any of the questions; none if blocks may contain them."""
        if self.thinking.is_chosen:
            return ()
        stops = (stop for _, task in questions.values() for stop in self.prompts.format_for(task).stops)
        return tuple(dict.fromkeys(stops))

    def sampler(
        self, questions: QuestionsById, sampling: c.Sampling, seed: int, mesh: jax.sharding.Mesh | None = None
    ) -> Sampler:
        """Returns a sampler for responses to the questions."""
        stops = self.stop_strings(questions)
        return Sampler(self.model, self.params, self.tokenizer, sampling, seed=seed, stops=stops, mesh=mesh)

    def requests(
        self,
        questions: QuestionsById,
        n: int,
        done: Collection[tuple[str, int]] = frozenset(),
        rationales: RationalesById | None = None,
    ) -> list[Request]:
        """Returns requests for the samples that are not `done`.

        Args:
          questions: the questions.
          n: samples per question. Ignored with `rationales`.
          done: (question id, sample index) of samples that exist.
          rationales: rationales for the prompts; sample i of a question is prompted with its rationale i.
        """
        few_shot_ids: dict[str, list[int]] = {}
        found = []
        for id_, (question, task) in questions.items():
            if rationales is None:
                indices = tuple(i for i in range(n) if (id_, i) not in done)
                prompts = [(indices, None)] if indices else []
            else:
                prompts = [((i,), text) for i, text in enumerate(rationales[id_]) if (id_, i) not in done]
            for indices, rationale in prompts:
                if task.name not in few_shot_ids:
                    few_shot_ids[task.name] = self._few_shot_ids(task)
                # An array is compact, and all requests of a run are in memory at once.
                ids = array.array("i", self.prompt_ids(question, task, rationale))
                found.append(Request(id_, ids, indices, shared_length=shared_length(ids, few_shot_ids[task.name])))
        return found

    def responses(
        self,
        samples: Sequence[Sample],
        questions: QuestionsById,
        sampling: c.Sampling,
        rationales: RationalesById | None = None,
    ) -> list[Response]:
        """Parses samples and compares their answers with the gold ones."""
        found = []
        for sample in samples:
            rationale = None if rationales is None else rationales[sample.question_id][sample.sample_index]
            found.append(self.respond(sample, *questions[sample.question_id], describe(sampling), rationale))
        return found

    def respond(
        self, sample: Sample, question: Question, task: LoadedTask, sampling: str, rationale: str | None = None
    ) -> Response:
        """Parses one sample; see `make_response` for the arguments."""
        return make_response(
            sample,
            question,
            task,
            prompts=self.prompts,
            thinking=self.thinking,
            model=self.name,
            sampling=sampling,
            rationale=rationale,
        )

    def _few_shot_ids(self, task: LoadedTask) -> list[int]:
        """Token ids of the few-shot examples as one prompt. Its last tokens may differ from those of real prompts."""
        few_shot = self.prompts.few_shot(task)
        if self.prompts.settings.system:
            few_shot = join_prompt(few_shot, "")  # some templates refuse a system turn alone
        return self.tokenizer.prompt_ids(few_shot, self.model.config.kind) if few_shot else []


def load_prompted_model(
    context: RunContext,
    name: str,
    model: c.Model,
    precision: str,
    settings: PromptSettings,
    *,
    seed: int = 0,
    thinking: ThinkingBlocks = IGNORE_THINKING,
) -> PromptedModel:
    """Loads a model of the config onto the devices of the data group.

    Args:
      context: the run.
      name: name of the model in the records.
      model: the model.
      precision: compute dtype.
      settings: how the model is prompted.
      seed: seed of the parameters, for models with random weights.
      thinking: how thinking blocks in its responses are treated.
    """
    functions = context.models.functions(model, precision)
    params = context.models.inference_params(model, functions, seed)
    return PromptedModel(
        name, functions, params, context.models.tokenizer(model), context.prompt_builder(settings), thinking
    )


def generate(
    context: RunContext,
    model: PromptedModel,
    questions: QuestionsById,
    sampling: c.Sampling,
    *,
    seed: int,
    folder: epath.Path,
    stem: str = "responses",
    shards: int | None = None,
    rationales: RationalesById | None = None,
) -> list[epath.Path]:
    """Generates the responses that are missing in `folder` and returns the merged files.

    Args:
      context: the run.
      model: the model.
      questions: the questions.
      sampling: the sampling policy; `sampling.n` responses are generated per question.
      seed: seed of the sampling noise.
      folder: folder of the response files, which are written batch by batch.
      stem: first part of the file names.
      shards: number of merged files; None for a single file STEM.jsonl.
      rationales: rationales for the prompts. If set, generates one response per rationale.
    """
    sampler = model.sampler(questions, sampling, seed, context.sampling_mesh)

    def missing(done: Collection[tuple[str, int]]) -> tuple[int, Iterator[list[Response]]]:
        requests = context.data_group.share(model.requests(questions, sampling.n, done, rationales))
        batches = profile_steps(sampler(requests), context.config.profile, folder / "profile")
        rows = (model.responses(samples, questions, sampling, rationales) for samples in batches)
        return sum(len(request.sample_indices) for request in requests), rows

    return write_missing(
        context,
        missing,
        folder,
        stem,
        list(questions),
        shards=shards,
        by_group=True,
        label=f"  {model.name}",
        scope=stem.removesuffix("responses").removesuffix("."),
        note=lambda: _describe_stats(sampler.stats),
    )


def _describe_stats(stats: SamplerStats) -> str:
    return f"slots {100 * stats.utilization:.0f} % busy, {stats.prompt_tokens:,} prompt tokens"
