"""A model answers questions and every answer is kept: what sampling a teacher and evaluating a student share."""

import array
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from typing import NamedTuple

import jax
from etils import epath

from scotd_jax import config as c
from scotd_jax.distributed import hosts
from scotd_jax.distributed.profiling import profile_steps
from scotd_jax.jobs.context import Run
from scotd_jax.jobs.generation.thinking import Thinking
from scotd_jax.models import api
from scotd_jax.rationales.store import ResponseWriter, read_responses
from scotd_jax.records import Prompt, Question, Response
from scotd_jax.sampling import decode_loop
from scotd_jax.sampling.requests import Request, Sample
from scotd_jax.sampling.sampler import Sampler
from scotd_jax.tasks import recipes
from scotd_jax.tasks.base import LoadedTask
from scotd_jax.tasks.exemplars import join_prompt
from scotd_jax.tasks.prompt_formats import PromptFormat, is_correct
from scotd_jax.tokenization import Tokenizer

Asked = Mapping[str, tuple[Question, LoadedTask]]
Given = Mapping[str, Sequence[str]]  # question id -> rationales that it is asked with


class Speaker(NamedTuple):
    """A model ready to speak, asked as its recipe says in a format of its own or that of each task (None).

    `prefix(task, format, few_shot)` is what comes before every prompt: a text or, if it is asked in a chat, turns.
    Without model, params and tokenizer it speaks elsewhere (generation/servers). `thinking` None: what it says
    has no blocks of thought, or is taken as it is.
    """

    name: str
    model: api.Model | None
    params: api.Params | None
    tokenizer: Tokenizer | None
    recipe: c.Recipe
    own_style: PromptFormat | None
    few_shot: int
    prefix: Callable[[LoadedTask, PromptFormat, int], Prompt]
    thinking: Thinking | None = None

    def style(self, task: LoadedTask) -> PromptFormat:
        return self.own_style or task.format

    def prompt(self, question: Question, task: LoadedTask, rationale: str | None = None) -> Prompt:
        style = self.style(task)
        before = self.prefix(task, style, self.few_shot)
        return join_prompt(before, recipes.build_prompt(self.recipe, style, question, rationale))

    def prompt_ids(self, question: Question, task: LoadedTask, rationale: str | None = None) -> list[int]:
        return self.tokenizer.prompt_ids(self.prompt(question, task, rationale), self.model.config.kind)

    def exemplar_ids(self, task: LoadedTask) -> list[int]:
        """What comes before every prompt of the task, and perhaps a few tokens that end it; empty without exemplars."""
        exemplars = self.prefix(task, self.style(task), self.few_shot)
        return self.tokenizer.prompt_ids(exemplars, self.model.config.kind) if exemplars else []

    def stops(self, asked: Asked) -> tuple[str, ...]:
        """The strings that end a response to any of the questions. Thoughts may hold them, so then there are none."""
        if self.thinking and self.thinking.what:
            return ()
        return tuple(dict.fromkeys(stop for _, task in asked.values() for stop in self.style(task).stops))


def load_speaker(run: Run, name: str, model: c.Model, precision: str, seed: int = 0) -> Speaker:
    functions = run.model(model, precision)
    # Before they move to the devices that speak: theirs is all that stays, and half as much.
    params = decode_loop.cast_for_inference(functions, run.params(model, functions, seed, functions.precision.compute))
    params = run.on_own_devices(params, functions)
    return Speaker(name, functions, params, run.tokenizer(model), *run.manner(model), run.opening(model))


def make_sampler(run: Run, speaker: Speaker, sampling: c.Sampling, stops: tuple[str, ...], seed: int) -> Sampler:
    return Sampler(
        speaker.model, speaker.params, speaker.tokenizer, sampling, seed=seed, stops=stops, mesh=run.own_mesh
    )


def requests(
    speaker: Speaker,
    asked: Asked,
    n: int,
    done: Set[tuple[str, int]] = frozenset(),
    given: Given | None = None,
) -> list[Request]:
    """What is still to be sampled: n samples of every question, or one for every rationale given, less those `done`."""
    exemplars: dict[str, list[int]] = {}

    def request(id_: str, indices: tuple[int, ...], rationale: str | None = None) -> Request:
        question, task = asked[id_]
        if task.name not in exemplars:
            exemplars[task.name] = speaker.exemplar_ids(task)
        ids = array.array("i", speaker.prompt_ids(question, task, rationale))  # small: all requests wait at once
        same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(ids, exemplars[task.name], strict=False))
        return Request(id_, ids, indices, shared_length=sum(1 for _ in same))

    wanted = []
    for id_ in asked:
        if given is None:
            if missing := tuple(i for i in range(n) if (id_, i) not in done):
                wanted.append(request(id_, missing))
        else:
            wanted += [request(id_, (i,), text) for i, text in enumerate(given[id_]) if (id_, i) not in done]
    return wanted


def respond(
    sample: Sample, question: Question, task: LoadedTask, speaker: Speaker, sampling: str, given: Given | None = None
) -> Response:
    """The record of one sample, read as the speaker's recipe says and compared with the gold answer.

    Its rationale is the one it was given where it gives none.
    """
    style = speaker.style(task)
    if speaker.thinking is None:
        parsed = recipes.parse_response(speaker.recipe, style, sample.text, question)
    else:
        sample, parsed = speaker.thinking.read(sample, question, speaker.recipe, style)
    rationale = parsed.rationale
    if rationale is None and given is not None:
        rationale = given[sample.question_id][sample.sample_index]
    return Response(
        question_id=sample.question_id,
        sample_index=sample.sample_index,
        text=sample.text,
        rationale=rationale,
        answer=parsed.answer,
        correct=is_correct(parsed.answer, question),
        finish_reason=sample.finish_reason,
        logprob=round(sample.logprob, 4),
        num_tokens=sample.num_tokens,
        model=speaker.name,
        sampling=sampling,
    )


def speak(
    run: Run,
    speaker: Speaker,
    asked: Asked,
    sampling: c.Sampling,
    *,
    seed: int,
    folder: epath.Path,
    stem: str = "responses",
    shards: int | None = None,
    given: Given | None = None,
) -> list[epath.Path]:
    """Samples what `folder` does not yet hold; rows are written as batches finish. Returns the merged files."""
    label = describe(sampling)
    sampler = make_sampler(run, speaker, sampling, speaker.stops(asked), seed)

    def work(done: Set[tuple[str, int]]) -> tuple[int, Iterator[list[Response]]]:
        wanted = hosts.local_share(requests(speaker, asked, sampling.n, done, given))
        batches = profile_steps(sampler(wanted), run.config.profile, folder / "profile")
        rows = ([respond(s, *asked[s.question_id], speaker, label, given) for s in some] for some in batches)
        return sum(len(request.sample_indices) for request in wanted), rows

    def note() -> str:
        return f"slots {100 * sampler.stats.utilization:.0f} % busy"

    return collect(run, work, folder, f"  {speaker.name} says {stem}", stem, list(asked), shards, note)


def collect(
    run: Run,
    work: Callable[[Set[tuple[str, int]]], tuple[int, Iterator[list[Response]]]],
    folder: epath.Path,
    label: str,
    stem: str,
    order: Sequence[str],
    shards: int | None = None,
    note: Callable[[], str] = str,
) -> list[epath.Path]:
    """Writes what `work(names of the rows that are there)` yields: the number of rows missing here, and the rows.
    What `note()` says is shown beside the progress.

    With several processes each makes its share of what is missing, whoever wrote the rest; the first one merges.
    """
    writer = ResponseWriter(folder, stem, host=jax.process_index())
    done = writer.written_keys()
    hosts.sync_processes(f"{folder} {stem} is read")  # else a fast process' rows would shift the shares of a slow one
    missing, batches = work(done)
    with run.progress(len(done) + missing, label, "responses", len(done)) as progress:
        for rows in batches:
            writer.write(rows)
            progress.advance(len(rows), note())
    hosts.sync_processes(f"{folder} {stem} is written")
    if hosts.is_primary():
        writer.merge(order, shards)
    hosts.sync_processes(f"{folder} {stem} is merged")
    return writer.merged_paths(shards)


def read_all(paths: list[epath.Path]) -> list[Response]:
    return list(read_responses(paths))


def describe(sampling: c.Sampling) -> str:
    """The policy in one short string, for the records."""
    if sampling.temperature == 0:
        return "greedy"
    parts = [f"temperature={sampling.temperature:g}"]
    parts += [f"top_k={sampling.top_k}"] * bool(sampling.top_k)
    parts += [f"top_p={sampling.top_p:g}"] * (sampling.top_p < 1)
    return ",".join(parts)
