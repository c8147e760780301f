"""A model answers questions and every answer is kept: what sampling a teacher and evaluating a student share."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
from etils import epath

from scotd_jax import config as c
from scotd_jax.distributed import hosts
from scotd_jax.jobs.run import Run
from scotd_jax.models import api
from scotd_jax.rationales.store import ResponseWriter, read_responses
from scotd_jax.records import Question, Response
from scotd_jax.sampling.sampler import Request, Sample, Sampler
from scotd_jax.tasks.base import Task
from scotd_jax.tasks.formats import is_correct
from scotd_jax.tokenization import Tokenizer


class Speaker(NamedTuple):
    """A model ready to speak."""

    name: str
    model: api.Model
    params: api.Params
    tokenizer: Tokenizer


def load_speaker(run: Run, name: str, model: c.Model, precision: str, seed: int = 0) -> Speaker:
    functions = run.model(model, precision)
    return Speaker(name, functions, run.speaking_params(model, functions, seed), run.tokenizer(model))


def make_sampler(run: Run, speaker: Speaker, sampling: c.Sampling, stops: tuple[str, ...], seed: int) -> Sampler:
    return Sampler(
        speaker.model, speaker.params, speaker.tokenizer, sampling, seed=seed, stops=stops, mesh=run.own_mesh
    )


def requests(
    speaker: Speaker, asked: Mapping[str, tuple[Question, Task]], n: int, done: set[tuple[str, int]] = frozenset()
) -> list[Request]:
    """What is still to be sampled, n samples of every question less those `done`."""
    wanted = []
    for id_, (question, task) in asked.items():
        missing = tuple(i for i in range(n) if (id_, i) not in done)
        if missing:
            ids = speaker.tokenizer.prompt_ids(task.format.prompt(question), speaker.model.config.kind)
            wanted.append(Request(id_, ids, missing))
    return wanted


def respond(sample: Sample, question: Question, task: Task, model: str, sampling: str) -> Response:
    """The record of one sample: parsed and compared with the gold answer by its task."""
    parsed = task.format.parse(sample.text, question)
    return Response(
        question_id=sample.question_id,
        sample_index=sample.sample_index,
        text=sample.text,
        rationale=parsed.rationale,
        answer=parsed.answer,
        correct=is_correct(parsed.answer, question),
        finish_reason=sample.finish_reason,
        logprob=round(sample.logprob, 4),
        num_tokens=sample.num_tokens,
        model=model,
        sampling=sampling,
    )


def speak(
    run: Run,
    speaker: Speaker,
    asked: Mapping[str, tuple[Question, Task]],
    sampling: c.Sampling,
    *,
    seed: int,
    folder: epath.Path,
    stem: str = "responses",
    shards: int | None = None,
) -> list[epath.Path]:
    """Samples what `folder` does not yet hold; rows are written as batches finish. Returns the merged files.

    With several processes each samples its share of what is missing, whoever wrote the rest.
    """
    writer = ResponseWriter(folder, stem, host=jax.process_index())
    done = writer.done()
    hosts.wait_for_all(f"{folder} {stem} is read")  # else a fast process' rows would shift the shares of a slow one
    wanted = hosts.own_share(requests(speaker, asked, sampling.n, done))
    stops = tuple(dict.fromkeys(stop for _, task in asked.values() for stop in task.format.stops))
    sampler = make_sampler(run, speaker, sampling, stops, seed)
    label = describe(sampling)
    missing = sum(len(request.sample_indices) for request in wanted)
    with run.progress(len(done) + missing, f"  {speaker.name} says {stem}", "responses", len(done)) as progress:
        for samples in sampler(wanted):
            writer.write([respond(s, *asked[s.question_id], speaker.name, label) for s in samples])
            progress.advance(len(samples))
    hosts.wait_for_all(f"{folder} {stem} is written")
    if hosts.is_first():
        writer.finish(list(asked), shards)
    hosts.wait_for_all(f"{folder} {stem} is merged")
    return writer.final_paths(shards)


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
