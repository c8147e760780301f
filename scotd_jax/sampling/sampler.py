"""From named prompts to texts: batches of one shape per prompt length, keyed noise, decoding and cutting.

A sample's text follows from its name, its prompt, the policy and the model. Which other questions are asked, in what
order, and which samples are still missing does not enter: the shapes in which a question is computed depend on the
policy and on its own length only.
"""

import dataclasses
import functools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh

from scotd_jax.config import Sampling
from scotd_jax.distributed.mesh import batch_shards
from scotd_jax.distributed.sharding import batch_sharding
from scotd_jax.errors import InputError
from scotd_jax.layout import pad_rows, round_up, split_prompt
from scotd_jax.models.api import Model, Params
from scotd_jax.sampling.engine import Generation, make_generate
from scotd_jax.sampling.noise import name_words, row_keys
from scotd_jax.sampling.stops import cut, stop_table


@runtime_checkable
class Tokenizer(Protocol):
    """What is needed of scotd_jax.tokenization.Tokenizer."""

    eos_id: int
    size: int

    def token_texts(self) -> list[bytes]: ...

    def decode(self, ids: Sequence[int]) -> str: ...


@dataclasses.dataclass(frozen=True)
class Request:
    """Samples wanted of one question: `prompt_ids` is the whole prompt, `sample_indices` the numbers of the samples."""

    question_id: str
    prompt_ids: Sequence[int]
    sample_indices: Sequence[int]


@dataclasses.dataclass(frozen=True)
class Sample:
    """One thing that was said. Fields as in records.Response.

    `token_ids` are all `num_tokens` tokens, with the end token or those of the stop string, which `text` is without.
    """

    question_id: str
    sample_index: int
    text: str
    finish_reason: str
    logprob: float
    num_tokens: int
    token_ids: tuple[int, ...]


class Sampler:
    """Calls yield one list of samples per finished batch, longest prompts first.

    `params` may be replaced between calls by others of the same shapes (a student in training): nothing is compiled
    again. With a mesh they are placed by the caller, and questions are spread over its axes "data" and "fsdp".
    `compilations` counts the shapes compiled so far: one per multiple of `policy.bucket` among the prompt lengths.
    """

    def __init__(
        self,
        model: Model,
        params: Params,
        tokenizer: Tokenizer,
        policy: Sampling,
        *,
        seed: int,
        stops: Sequence[str] = (),
        mesh: Mesh | None = None,
    ) -> None:
        """Raises InputError where tokenizer and model do not fit each other."""
        if tokenizer.size > model.config.vocab_size:
            raise InputError(
                f"the tokenizer has {tokenizer.size} ids but the model's vocabulary only {model.config.vocab_size}; "
                "use the tokenizer that the model was trained with"
            )
        self.params = params
        self._model, self._tokenizer, self._policy, self._seed, self._stops = model, tokenizer, policy, seed, stops
        self._texts = tokenizer.token_texts()
        self._table = jax.numpy.asarray(stop_table(self._texts, stops))
        self._generate = _compiled(model, _in_arrays(policy), tokenizer.eos_id, tokenizer.size)
        self._shapes: set[int] = set()
        self._sharding = None if mesh is None else batch_sharding(mesh)
        self._batch_size = round_up(policy.batch_size, 1 if mesh is None else batch_shards(mesh))

    @property
    def compilations(self) -> int:
        return len(self._shapes)

    def __call__(self, requests: Iterable[Request]) -> Iterator[list[Sample]]:
        """Samples as they are finished. While one batch is decoded to text, the next one is already being computed.

        Raises InputError, before anything is computed, on a prompt that the model cannot take.
        """
        waiting = None
        for batch, width in self._batches(requests):
            started = batch, self._start(batch, width)
            if waiting is not None:
                yield self._collect(*waiting)
            waiting = started
        if waiting is not None:
            yield self._collect(*waiting)

    def _batches(self, requests: Iterable[Request]) -> list[tuple[list[Request], int]]:
        """Requests of equal padded prefix length, at most a batch of them, at most `policy.n` samples each."""
        buckets: dict[int, list[Request]] = defaultdict(list)
        for request in requests:
            self._check(request)
            prefix, _ = split_prompt(request.prompt_ids, self._model.start_token)
            bucket = buckets[round_up(len(prefix), self._policy.bucket)]
            for some in _slices(request.sample_indices, self._policy.n):
                bucket.append(dataclasses.replace(request, sample_indices=some))
        widths = sorted(buckets, reverse=True)
        return [(batch, width) for width in widths for batch in _slices(buckets[width], self._batch_size)]

    def _check(self, request: Request) -> None:
        where = f"question {request.question_id!r}"
        if not len(request.prompt_ids) and self._model.start_token is None:
            raise InputError(f"{where}: the prompt has no tokens; a decoder-only model needs at least one")
        room = getattr(self._model.config, "max_position_embeddings", None)
        if room is not None and len(request.prompt_ids) + self._policy.max_new_tokens > room:
            raise InputError(
                f"{where}: {len(request.prompt_ids)} prompt tokens and max_new_tokens {self._policy.max_new_tokens} "
                f"exceed the model's {room} positions; shorten the prompt or lower max_new_tokens"
            )

    def _start(self, batch: Sequence[Request], width: int) -> Generation:
        """Hands one batch to the devices and returns at once. Places beyond the batch are rows that say nothing."""
        B, G = self._batch_size, self._policy.n
        pairs = [split_prompt(request.prompt_ids, self._model.start_token) for request in batch]
        prompt, mask = pad_rows([prefix for prefix, _ in pairs] + [[]] * (B - len(batch)), width)
        start = np.zeros(B, np.int32)
        start[: len(batch)] = [first for _, first in pairs]
        words = np.zeros((B, 2), np.uint32)
        words[: len(batch)] = [name_words(request.question_id) for request in batch]
        index, active = pad_rows([request.sample_indices for request in batch] + [[]] * (B - len(batch)), G)
        arrays = (prompt, mask, start, row_keys(self._seed, words, index), active)
        if self._sharding is not None:
            arrays = jax.device_put(arrays, self._sharding)
        self._shapes.add(width)
        return self._generate(self.params, *arrays, self._table)

    def _collect(self, batch: Sequence[Request], generation: Generation) -> list[Sample]:
        """Waits for a batch and makes samples of it."""
        tokens, length, logprob, finished = (np.asarray(part) for part in jax.device_get(generation))
        samples = []
        for b, request in enumerate(batch):
            for g, index in enumerate(request.sample_indices):
                ids = tuple(tokens[b, g, : length[b, g]].tolist())
                reason = "stop" if finished[b, g] else "length"
                text = self._text(ids)
                samples.append(Sample(request.question_id, index, text, reason, float(logprob[b, g]), len(ids), ids))
        return samples

    def _text(self, ids: Sequence[int]) -> str:
        """What the tokens say up to the end token or the stop string.

        A decoder of tokens may normalise blanks, so that a stop string which the tokens spell is not in their text:
        then the text ends with the last token that lies wholly before it.
        """
        if ids and ids[-1] == self._tokenizer.eos_id:
            ids = ids[:-1]
        text = self._tokenizer.decode(ids)
        shorter = cut(text, self._stops)
        spelled = [self._texts[i] for i in ids]
        if len(shorter) == len(text):
            said = b"".join(spelled)
            found = [at for at in (said.find(stop.encode("utf-8")) for stop in self._stops) if at >= 0]
            if found:
                ends = np.cumsum([len(part) for part in spelled])
                shorter = self._tokenizer.decode(ids[: int(np.searchsorted(ends, min(found), side="right"))])
        return shorter


@functools.lru_cache(maxsize=32)
def _compiled(model: Model, policy: Sampling, eos_id: int, vocab_limit: int) -> Callable[..., Generation]:
    """One jitted function per model and policy, so that samplers of equal models share what has been compiled."""
    return jax.jit(make_generate(model, policy, eos_id=eos_id, vocab_limit=vocab_limit))


def _in_arrays(policy: Sampling) -> Sampling:
    """The policy without what only decides the shapes of batches."""
    return dataclasses.replace(policy, n=1, batch_size=1, bucket=1)


def _slices(items: Sequence, size: int) -> list[Sequence]:
    return [items[i : i + size] for i in range(0, len(items), size)]
