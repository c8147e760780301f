"""From named prompts to texts: passes of one shape per prompt length, rows kept busy, decoding and cutting.

A sample's text follows from its name, its prompt, the policy and the model. Which other questions are asked, in what
order, and which samples are still missing does not enter: the shapes in which a question is computed depend on the
policy, on its exemplars and on its own length only.
"""

import collections
import dataclasses
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh

from scotd_jax.config import Sampling
from scotd_jax.distributed.mesh import batch_shards
from scotd_jax.distributed.sharding import AnyMesh, batch_sharding
from scotd_jax.errors import InputError
from scotd_jax.layout import pad_rows, round_up, split_prompt
from scotd_jax.models.api import Context, Model, Params
from scotd_jax.sampling import decode_loop
from scotd_jax.sampling.compiled import programs
from scotd_jax.sampling.noise import base_key
from scotd_jax.sampling.requests import Request, Sample
from scotd_jax.sampling.scheduler import Lanes
from scotd_jax.sampling.step_inputs import Orders
from scotd_jax.sampling.stop_strings import cut, stop_table

PATIENCE = 30.0  # seconds after which finished samples are handed on even if they are few


@runtime_checkable
class Tokenizer(Protocol):
    """What is needed of scotd_jax.tokenization.Tokenizer."""

    eos_ids: tuple[int, ...]
    size: int

    def token_bytes(self) -> list[bytes]: ...

    def decode(self, ids: Sequence[int]) -> str: ...


class Said(NamedTuple):
    """A sample before its text is made."""

    request: Request
    sample_index: int
    ids: tuple[int, ...]
    logprob: float
    ended: bool


@dataclasses.dataclass
class Work:
    """What a sampler has done so far: steps times rows, and how many of these made a token of a sample."""

    row_steps: int = 0
    tokens: int = 0

    @property
    def occupancy(self) -> float:
        return self.tokens / max(1, self.row_steps)


class Sampler:
    """Calls yield lists of samples, about as many as there are rows, as they are finished; longest prompts come first.

    `params` may be replaced between calls by others of the same shapes (a student in training): nothing is compiled
    again. With a mesh they are placed by the caller, and questions are spread over its axes "data" and "fsdp".
    `shapes` holds the (exemplar tokens, prompt tokens), padded, in which anything was computed so far: each costs two
    compilations, and three with exemplars. `work` counts what the rows did.
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
        policy = dataclasses.replace(policy, batch_size=round_up(policy.batch_size, (mesh and batch_shards(mesh)) or 1))
        self.params, self.work, self.shapes = params, Work(), set[tuple[int, int]]()
        self._model, self._tokenizer, self._policy, self._stops, self._mesh = model, tokenizer, policy, stops, mesh
        self._texts = tokenizer.token_bytes()
        self._table = jax.numpy.asarray(stop_table(self._texts, stops))
        self._base = base_key(seed)
        self._programs = programs(model, policy, tokenizer.eos_ids, tokenizer.size, mesh)

    def __call__(self, requests: Iterable[Request]) -> Iterator[list[Sample]]:
        """Samples as they are finished. While they are decoded to text, the next ones are already being computed.

        Raises InputError, before anything is computed, on a prompt that the model cannot take.
        """
        passes = self._passes(requests)
        weights = decode_loop.speaking(self._model, self.params)
        rows, since = self._policy.batch_size * self._policy.n, time.monotonic()
        samples: list[Sample] = []
        for shared, width, asked in passes:
            for said in self._run(weights, shared, width, asked):
                samples += [self._sample(each) for each in said]
                if len(samples) >= rows or (samples and time.monotonic() - since > PATIENCE):
                    yield samples
                    samples, since = [], time.monotonic()
        if samples:
            yield samples

    def _passes(self, requests: Iterable[Request]) -> list[tuple[tuple[int, ...], int, list[Request]]]:
        """Requests by their exemplars and by the padded length of what comes after these, the longest first."""
        passes: dict[tuple[tuple[int, ...], int], list[Request]] = collections.defaultdict(list)
        for request in requests:
            self._check(request)
            shared, rest, _ = self._split(request)
            if len(request.sample_indices):
                passes[tuple(shared), round_up(len(rest), self._policy.bucket)].append(request)
        longest = sorted(passes, key=lambda key: (-len(key[0]), key[0], -key[1]))
        return [(*key, passes[key]) for key in longest]

    def _split(self, request: Request) -> tuple[list[int], list[int], int]:
        """Exemplars, what comes between them and the response, and the first input of the response."""
        prefix, start = split_prompt(request.prompt_ids, self._model.start_token)
        shared = request.shared if self._model.start_token is None else 0
        return prefix[:shared], prefix[shared:], start

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

    def _run(
        self, weights: decode_loop.Weights, exemplars: Sequence[int], width: int, asked: Sequence[Request]
    ) -> Iterator[list[Said]]:
        """What is said in one pass, as it is finished."""
        B, G, T = self._policy.batch_size, self._policy.n, self._policy.max_new_tokens
        places = places_of(self._policy)
        self.shapes.add((round_up(len(exemplars), self._policy.bucket) if exemplars else 0, width))
        shared = self._exemplars(weights, exemplars)
        questions, rows, cache = self._programs.empty(weights.params, B, places, width)
        lanes, pending = Lanes(B, G, places), collections.deque(asked)
        orders = Orders(B, G)
        tokens, finished = np.zeros((B, G, T), np.int32), []
        while True:
            for admitted in self._admitted(lanes, pending):
                questions = self._read(weights, shared, questions, admitted, width, places)
            orders.begin(lanes, self._split)
            if not lanes.busy:
                break
            rows, cache, new, steps = self._programs.decode(
                weights, shared, questions, rows, cache, self._placed(orders.arrays), self._base, self._table
            )
            if finished:
                yield finished
            finished = []
            new, steps, position, logprob, active, ended = jax.device_get(
                (new, steps, rows.position, rows.logprob, rows.active, rows.ended)
            )
            self.work.row_steps += int(steps) * B * G
            self.work.tokens += orders.hear(tokens, new, position)
            for b, g in zip(*np.nonzero(orders.busy & ~active), strict=True):
                request, sample_index = lanes.end(int(b), int(g))
                ids = tuple(tokens[b, g, : position[b, g]].tolist())
                finished.append(Said(request, sample_index, ids, float(logprob[b, g]), bool(ended[b, g])))
            orders.busy &= active
        if finished:
            yield finished

    def _admitted(self, lanes: Lanes, pending: collections.deque[Request]) -> Iterator[list[tuple[int, int, Request]]]:
        """Questions that are read at once, with the lane and place that each one takes.

        Several, because a prompt alone does not keep the hardware busy; so a lane that wants one may wait for others.
        """
        most = at_once(self._policy.batch_size, self._mesh)
        while pending:
            wanting = lanes.wanting()
            if len(wanting) < min(most, len(pending)) and lanes.busy:
                return
            chosen = [(lane, pending.popleft()) for lane in wanting[: min(most, len(pending))]]
            if not chosen:
                return
            yield [(lane, lanes.take(lane, request), request) for lane, request in chosen]

    def _exemplars(self, weights: decode_loop.Weights, exemplars: Sequence[int]) -> Context | None:
        if not exemplars:
            return None
        tokens, mask = pad_rows([exemplars], round_up(len(exemplars), self._policy.bucket))
        return self._programs.prefill(weights.params, tokens, mask)

    def _read(
        self,
        weights: decode_loop.Weights,
        shared: Context | None,
        questions: decode_loop.Questions,
        admitted: Sequence[tuple[int, int, Request]],
        width: int,
        places: int,
    ) -> decode_loop.Questions:
        most = at_once(self._policy.batch_size, self._mesh)
        prefixes = [self._split(request)[1] for _, _, request in admitted]
        source = np.full((places, self._policy.batch_size), -1, np.int32)
        for i, (lane, place, _) in enumerate(admitted):
            source[place, lane] = i
        batch = self._placed(pad_rows(prefixes + [[]] * (most - len(admitted)), width))
        return self._programs.read(weights.params, shared, questions, *batch, source)

    def _placed(self, arrays: Any) -> Any:
        return arrays if self._mesh is None else jax.device_put(arrays, batch_sharding(self._mesh))

    def _sample(self, said: Said) -> Sample:
        reason = "stop" if said.ended else "length"
        question_id, ids = said.request.question_id, said.ids
        return Sample(question_id, said.sample_index, self._text(ids), reason, said.logprob, len(ids), ids)

    def _text(self, ids: Sequence[int]) -> str:
        """What the tokens say up to the end token or the stop string.

        A decoder of tokens may normalise blanks, so that a stop string which the tokens spell is not in their text:
        then the text ends with the last token that lies wholly before it.
        """
        if ids and ids[-1] in self._tokenizer.eos_ids:
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


def places_of(policy: Sampling) -> int:
    """How many questions a lane holds at a time."""
    return 1 if policy.n == 1 else 2


def at_once(batch_size: int, mesh: AnyMesh | None) -> int:
    """How many questions are read at once."""
    return round_up(-(-batch_size // 4), 1 if mesh is None else batch_shards(mesh))
