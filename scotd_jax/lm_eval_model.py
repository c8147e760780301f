"""Evaluates students with lm-eval (EleutherAI/lm-evaluation-harness) through the sampler of this package.

    python -m scotd_jax.lm_eval_model --model scotd_jax --model_args pretrained=exports/n30 --tasks arc_easy

takes the arguments of `lm_eval`. The model is an export (`pretrained=FOLDER`), or a student of a work directory
(`workdir=DIR,student=NAME`), whose best checkpoint is read. The package `lm_eval` is needed, but not a dependency.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from scotd_jax import config as c
from scotd_jax.api import load_pretrained
from scotd_jax.errors import InputError, list_names, lookup
from scotd_jax.jobs.context import make_context
from scotd_jax.jobs.generation.local import PromptedModel, load_prompted_model
from scotd_jax.jobs.generation.prompting import prompt_settings
from scotd_jax.sampling.decode_loop import cast_for_inference
from scotd_jax.sampling.likelihood import Candidates, score_candidates
from scotd_jax.sampling.requests import Request, Sample
from scotd_jax.sampling.sampler import Sampler
from scotd_jax.strict_json import read_json
from scotd_jax.workdir import Workdir

_MAX_NEW_TOKENS = 256  # lm-eval's default for tasks that set no limit
_SETTINGS = ("until", "max_gen_toks", "do_sample", "temperature", "top_p", "top_k")


@runtime_checkable
class HarnessRequest(Protocol):
    """A request of lm-eval (`lm_eval.api.instance.Instance`), as far as it is used here."""

    args: tuple[Any, ...]
    task_name: str | None
    doc_id: int | None


class HarnessModel:
    """Answers the requests of lm-eval; with `lm_eval.api.model.LM` as second base it is a model of lm-eval."""

    def __init__(
        self,
        pretrained: str = "",
        workdir: str = "",
        student: str = "",
        precision: Any = "float32",
        batch_size: int | str = 16,
        bucket: int = 64,
        seed: int = 0,
        **other: Any,
    ):
        """Loads a model.

        Args:
          pretrained: folder of an export or name of a model on the Hub.
          workdir: work directory of a student; instead of `pretrained`.
          student: name of the student.
          precision: compute dtype, "float32" or "bfloat16".
          batch_size: questions per batch.
          bucket: prompts are padded to a multiple of this many tokens; each multiple is compiled once.
          seed: seed of the sampling noise.
          **other: lm-eval's `device` and `max_batch_size`, which have no effect.

        Raises:
          InputError: if the model cannot be loaded, or an argument is unknown.
        """
        super().__init__()
        if unknown := sorted(other.keys() - {"device", "max_batch_size"}):
            raise InputError(
                f"--model_args: unknown argument {unknown[0]!r}; expected pretrained, or workdir and student"
            )
        if bool(pretrained) == bool(workdir and student):
            raise InputError("--model_args: expected either pretrained=FOLDER, or workdir=DIR,student=NAME")
        if not str(batch_size).isdigit():
            raise InputError(f"--batch_size: expected a number, found {batch_size!r}")
        loaded = (
            load_pretrained(pretrained, precision=precision) if pretrained else _student(workdir, student, precision)
        )
        self.prompted = dataclasses.replace(loaded, params=cast_for_inference(loaded.model, loaded.params))
        self._sizes: dict[str, Any] = {"batch_size": int(batch_size), "bucket": bucket}
        self._seed = seed

    def generate_until(self, requests: Sequence[HarnessRequest], disable_tqdm: bool = False) -> list[str]:
        """Returns a response to every request (prompt, generation settings), without its stop string."""
        del disable_tqdm
        groups: dict[tuple[c.Sampling, tuple[str, ...]], dict[str, int]] = defaultdict(dict)
        counts: dict[str, int] = defaultdict(int)
        for i, request in enumerate(requests):
            name = f"{request.task_name}/{request.doc_id}"
            # The noise depends on the name, so repeated requests for one document need different names.
            groups[generation_settings(request.args[1], self._sizes)][f"{name}/{counts[name]}"] = i
            counts[name] += 1
        texts = [""] * len(requests)
        for (sampling, stops), indices in groups.items():
            prompts = {name: self._prompt_ids(requests[i].args[0]) for name, i in indices.items()}
            for name, sample in self._generate(prompts, sampling, stops).items():
                texts[indices[name]] = sample.text
        return texts

    def loglikelihood(self, requests: Sequence[HarnessRequest], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Returns for every request (context, continuation) log p(continuation | context) and whether it is greedy."""
        del disable_tqdm
        return self._score([self._split(*request.args) for request in requests])

    def loglikelihood_rolling(self, requests: Sequence[HarnessRequest], disable_tqdm: bool = False) -> list[float]:
        """Returns the log-probability of every request's text.

        Raises:
          InputError: for an encoder-decoder model, which has no probability of a text.
        """
        del disable_tqdm
        if self.prompted.model.start_token is not None:
            raise InputError("loglikelihood_rolling: an encoder-decoder model has no probability of a text alone")
        return [log_p for log_p, _ in self._score([self._split("", request.args[0]) for request in requests])]

    def _prompt_ids(self, text: str) -> list[int]:
        return self.prompted.tokenizer.prompt_ids(text, self.prompted.model.config.kind)

    def _split(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Token ids of context and continuation, split as lm-eval's `TemplateLM` does."""
        bare = context.rstrip()
        context, continuation = bare, context[len(bare) :] + continuation
        prompt_ids = self._prompt_ids(context)
        if self.prompted.model.start_token is not None:
            return prompt_ids, self.prompted.tokenizer.encode(continuation)
        whole = self._prompt_ids(context + continuation)
        return prompt_ids or [self.prompted.tokenizer.end_id], whole[len(prompt_ids) :]

    def _score(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        """Returns log p(continuation | context), and whether greedy decoding generates the continuation, of every pair.

        The context is computed once for all of its continuations.
        """
        if not pairs:
            return []
        by_context: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for i, (context_ids, _) in enumerate(pairs):
            by_context[tuple(context_ids)].append(i)
        groups = list(by_context.values())
        prompts = {str(k): pairs[indices[0]][0] for k, indices in enumerate(groups)}
        longest = max(len(ids) for _, ids in pairs)
        greedy = self._generate(prompts, c.Sampling(temperature=0.0, max_new_tokens=longest, **self._sizes), ())
        items = [
            Candidates(k, pairs[indices[0]][0], [pairs[i][1] for i in indices]) for k, indices in enumerate(groups)
        ]
        scores = [(0.0, False)] * len(pairs)
        for batch in score_candidates(self.prompted.model, self.prompted.params, items, **self._sizes):
            for k, log_p in batch:
                for i, value in zip(groups[int(str(k))], log_p, strict=True):
                    ids = pairs[i][1]
                    scores[i] = float(value), list(greedy[str(k)].token_ids[: len(ids)]) == list(ids)
        return scores

    def _generate(
        self, prompts: Mapping[str, Sequence[int]], sampling: c.Sampling, stops: tuple[str, ...]
    ) -> dict[str, Sample]:
        model = self.prompted
        sampler = Sampler(model.model, model.params, model.tokenizer, sampling, seed=self._seed, stops=stops)
        batches = sampler([Request(name, ids, (0,)) for name, ids in prompts.items()])
        return {sample.question_id: sample for batch in batches for sample in batch}


def generation_settings(settings: Mapping[str, Any], sizes: Mapping[str, int]) -> tuple[c.Sampling, tuple[str, ...]]:
    """Returns the sampling settings and the stop strings of lm-eval's `generation_kwargs`.

    Raises:
      InputError: if a setting is not supported.
    """
    if unknown := sorted(settings.keys() - set(_SETTINGS)):
        raise InputError(f"generation_kwargs: {unknown[0]!r} is not supported; expected {list_names(_SETTINGS)}")
    until: str | Iterable[str] = settings.get("until") or ()
    stops = (until,) if isinstance(until, str) else tuple(until)
    temperature = float(settings.get("temperature") or 0.0)
    if settings.get("do_sample") is False:
        temperature = 0.0
    elif settings.get("do_sample") and "temperature" not in settings:
        temperature = 1.0
    sampling = c.Sampling(
        temperature=temperature,
        top_k=int(settings.get("top_k") or 0),
        top_p=float(settings.get("top_p") or 1.0),
        max_new_tokens=int(settings.get("max_gen_toks") or _MAX_NEW_TOKENS),
        **sizes,
    )
    return sampling, tuple(stop for stop in stops if stop)


def _student(workdir: str, name: str, precision: str) -> PromptedModel:
    """The best checkpoint of a student of a work directory."""
    directory = Workdir(workdir, writes=False)
    file = directory.root / "config.json"
    if not file.exists():
        raise InputError(f"{file}: no such file; expected the work directory of a run")
    config = c.from_mapping(c.Config, read_json(file, "every run writes it: run the work directory's command again"))
    lookup(config.students, name, "--model_args: student")
    model = c.Model(student=name)
    context = make_context(dataclasses.replace(config, mesh=c.Mesh()), directory)
    return load_prompted_model(context, name, model, precision, prompt_settings(config, model))


def register() -> type:
    """Registers the model in lm-eval as `scotd_jax`, and returns its class.

    Raises:
      InputError: if lm-eval is not installed.
    """
    try:
        from lm_eval.api.model import LM  # pyrefly: ignore[missing-import]  # optional
        from lm_eval.api.registry import register_model  # pyrefly: ignore[missing-import]
    except ImportError as error:
        raise InputError(f"lm-eval cannot be imported ({error}); install it: pip install lm_eval") from None
    return register_model("scotd_jax")(type("ScotdJaxLM", (HarnessModel, LM), {}))


def main() -> None:
    """Runs the command line of lm-eval with the model `scotd_jax`."""
    register()
    from lm_eval.__main__ import cli_evaluate  # pyrefly: ignore[missing-import]

    cli_evaluate()


if __name__ == "__main__":
    main()
