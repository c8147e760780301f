"""One pass of the sampler: admits questions, starts samples in free slots, steps the device, collects the results."""

import collections
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from scotd_jax.config import Sampling
from scotd_jax.distributed.sharding import batch_sharding, fetch, put_equal
from scotd_jax.layout import pad_rows
from scotd_jax.models.api import Context, LanguageModel
from scotd_jax.sampling.batch_sizes import contexts_per_group, prefill_batch_size, questions_per_batch
from scotd_jax.sampling.compiled import SamplingPrograms
from scotd_jax.sampling.decode_loop import InferenceWeights
from scotd_jax.sampling.passes import SamplingPass, padded_few_shot_length, prompt_parts
from scotd_jax.sampling.requests import Request
from scotd_jax.sampling.scheduler import Scheduler
from scotd_jax.sampling.slot_buffers import SlotBuffers


class FinishedSequence(NamedTuple):
    """The token ids of a finished sample.

    Attributes:
      request: the request that contains the sample.
      sample_index: index of the sample.
      token_ids: all generated tokens.
      logprob: natural log-probability of the tokens under the untempered model.
      stopped: True if it ended with an end token or a stop string, False at `max_new_tokens`.
    """

    request: Request
    sample_index: int
    token_ids: tuple[int, ...]
    logprob: float
    stopped: bool


@dataclasses.dataclass
class SamplerStats:
    """Counts of decode steps and tokens since the sampler was created.

    Attributes:
      slot_steps: decode steps times number of slots.
      tokens: number of generated tokens; in all other slot steps the slot was idle.
      prompt_tokens: number of prefilled tokens, without padding: a prompt once for all its samples, the few-shot
        examples once per pass.
    """

    slot_steps: int = 0
    tokens: int = 0
    prompt_tokens: int = 0

    @property
    def utilization(self) -> float:
        """Share of slot steps that generated a token, 0 to 1."""
        return self.tokens / max(1, self.slot_steps)


@dataclasses.dataclass(frozen=True)
class DecodeEngine:
    """The model, settings and programs that all passes of a sampler share.

    Attributes:
      model: the model that decodes.
      policy: sampling settings.
      mesh: devices over whose batch axes questions are spread; None for one device.
      programs: compiled programs of model and policy.
      base_key: `noise.base_key` of the seed.
      stop_table: `stop_strings.stop_table` of the stop strings, on the devices.
    """

    model: LanguageModel
    policy: Sampling
    mesh: Mesh | None
    programs: SamplingPrograms
    base_key: jax.Array
    stop_table: jax.Array

    def put_batch(self, arrays: Any) -> Any:
        """Returns arrays with a leading batch axis, sharded over the mesh; unchanged without a mesh."""
        return arrays if self.mesh is None else put_equal(arrays, batch_sharding(self.mesh))


class DecodePass:
    """Decodes all requests of one `SamplingPass`.

    Args:
      engine: model, policy and programs.
      weights: cast parameters of the model.
      sampling_pass: the requests.
      stats: counters to update.
    """

    def __init__(
        self, engine: DecodeEngine, weights: InferenceWeights, sampling_pass: SamplingPass, stats: SamplerStats
    ):
        policy, num_contexts = engine.policy, contexts_per_group(engine.policy)
        self._engine, self._weights, self._stats = engine, weights, stats
        self._pending = collections.deque(sampling_pass.requests)
        self._prompt_length = sampling_pass.prompt_length
        self._num_groups = questions_per_batch(engine.model.config, policy, self._prompt_length, engine.mesh)
        self._scheduler = Scheduler(self._num_groups, policy.n, num_contexts)
        self._slots = SlotBuffers(self._num_groups, policy.n, policy.max_new_tokens)
        self._few_shot = self._prefill_few_shot(sampling_pass)
        self._contexts, self._state, self._cache = engine.programs.init_state(
            weights.params, self._num_groups, num_contexts, self._prompt_length
        )

    @property
    def num_slots(self) -> int:
        """Number of sequences that are decoded at once."""
        return self._num_groups * self._engine.policy.n

    def run(self) -> Iterator[list[FinishedSequence]]:
        """Yields sequences as they finish, while the devices already compute the next steps."""
        finished: list[FinishedSequence] = []
        while True:
            self._admit_questions()
            self._slots.start(self._scheduler.assign(), self._start_token)
            if not self._scheduler.num_active:
                break
            generated, steps = self._dispatch_decode_steps()
            if finished:
                yield finished
            finished = self._collect_finished(generated, steps)
        if finished:
            yield finished

    def _start_token(self, request: Request) -> int:
        return prompt_parts(self._engine.model, request).start_token

    def _prefill_few_shot(self, sampling_pass: SamplingPass) -> Context | None:
        if not sampling_pass.few_shot_ids:
            return None
        self._stats.prompt_tokens += len(sampling_pass.few_shot_ids)
        width = padded_few_shot_length(self._engine.policy, sampling_pass)
        tokens, mask = pad_rows([sampling_pass.few_shot_ids], width)
        return self._engine.programs.prefill_few_shot(self._weights.params, tokens, mask)

    def _admit_questions(self) -> None:
        """Prefills pending questions for groups that can take another question, several questions per call.

        A single prompt does not keep the hardware busy, so a group may wait until enough groups can take a question.
        """
        max_prompts = prefill_batch_size(self._num_groups, self._engine.mesh)
        while self._pending:
            groups = self._scheduler.groups_to_refill()
            count = min(max_prompts, len(self._pending))
            if len(groups) < count and self._scheduler.num_active:
                return
            if not groups:
                return
            self._prefill([(group, self._pending.popleft()) for group in groups[:count]])

    def _prefill(self, admitted: Sequence[tuple[int, Request]]) -> None:
        """Computes the contexts of the requests and stores each in its group."""
        source = np.full((contexts_per_group(self._engine.policy), self._num_groups), -1, np.int32)
        prompts: list[list[int]] = [[]] * prefill_batch_size(self._num_groups, self._engine.mesh)
        for row, (group, request) in enumerate(admitted):
            source[self._scheduler.admit(group, request), group] = row
            prompts[row] = prompt_parts(self._engine.model, request).prompt_ids
        self._stats.prompt_tokens += sum(map(len, prompts))
        tokens, mask = self._engine.put_batch(pad_rows(prompts, self._prompt_length))
        self._contexts = self._engine.programs.prefill(
            self._weights.params, self._few_shot, self._contexts, tokens, mask, source
        )

    def _dispatch_decode_steps(self) -> tuple[jax.Array, jax.Array]:
        """Starts the next decode call; returns its tokens[B, G, C] and number of steps without waiting for them."""
        engine = self._engine
        self._state, self._cache, generated, steps = engine.programs.decode_steps(
            self._weights,
            self._few_shot,
            self._contexts,
            self._state,
            self._cache,
            engine.put_batch(self._slots.inputs),
            engine.base_key,
            engine.stop_table,
        )
        return generated, steps

    def _collect_finished(self, generated: jax.Array, steps: jax.Array) -> list[FinishedSequence]:
        """Waits for the decode call, frees the slots whose sequences have finished and returns these sequences."""
        state = self._state
        generated, steps, position, logprob, active, stopped = fetch(
            (generated, steps, state.position, state.logprob, state.active, state.stopped)
        )
        self._stats.slot_steps += int(steps) * active.size
        self._stats.tokens += self._slots.append(generated, position)
        finished = []
        for group, slot, ids in self._slots.pop_finished(active):
            request, sample_index = self._scheduler.release(group, slot)
            index = group, slot
            finished.append(FinishedSequence(request, sample_index, ids, float(logprob[index]), bool(stopped[index])))
        return finished
