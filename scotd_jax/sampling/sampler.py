"""Host side of the sampler: generates responses for a list of requests.

A response depends only on its question id, sample index, prompt, the policy and the model. Other requests and their
order have no influence, nor have samples of earlier runs, because the array shapes depend only on the policy, the
few-shot examples and the length of the prompt itself.
"""

import time
from collections.abc import Iterable, Iterator, Sequence

import jax
from jax.sharding import Mesh

from scotd_jax.config import Sampling
from scotd_jax.errors import InputError
from scotd_jax.models.api import LanguageModel, Params
from scotd_jax.sampling.compiled import sampling_programs
from scotd_jax.sampling.decode_loop import inference_weights
from scotd_jax.sampling.decode_pass import DecodeEngine, DecodePass, FinishedSequence, SamplerStats
from scotd_jax.sampling.detokenizer import Detokenizer, SamplerTokenizer
from scotd_jax.sampling.noise import base_key
from scotd_jax.sampling.passes import padded_few_shot_length, plan_passes
from scotd_jax.sampling.requests import Request, Sample
from scotd_jax.sampling.stop_strings import stop_table

MAX_WAIT_SECONDS = 30.0  # a finished sample is yielded after about this time, even if few others are finished


class Sampler:
    """Generates samples and yields them in lists of about as many as are decoded at once, longest prompts first.

    Args:
      model: the model that generates.
      params: its parameters. With a mesh, the caller shards them.
      tokenizer: tokenizer of the model.
      policy: sampling settings.
      seed: seed of the noise.
      stops: strings that end a response.
      mesh: devices; questions are spread over its axes "data" and "fsdp".

    Attributes:
      params: may be replaced between calls by parameters of the same shapes (a student in training) without a
        recompilation.
      shapes: padded (few-shot tokens, prompt tokens) used so far. Each pair costs two compilations, three with few-shot
        examples.
      stats: counts of decode steps and tokens.

    Raises:
      InputError: if the tokenizer has more ids than the model's vocabulary.
    """

    def __init__(
        self,
        model: LanguageModel,
        params: Params,
        tokenizer: SamplerTokenizer,
        policy: Sampling,
        *,
        seed: int,
        stops: Sequence[str] = (),
        mesh: Mesh | None = None,
    ) -> None:
        if tokenizer.size > model.config.vocab_size:
            raise InputError(
                f"the tokenizer has {tokenizer.size} ids but the model's vocabulary only {model.config.vocab_size}; "
                "use the tokenizer that the model was trained with"
            )
        self.params, self.stats, self.shapes = params, SamplerStats(), set[tuple[int, int]]()
        self._engine = DecodeEngine(
            model=model,
            policy=policy,
            mesh=mesh,
            programs=sampling_programs(model, policy, tokenizer.eos_ids, tokenizer.size, mesh),
            base_key=base_key(seed),
            stop_table=jax.numpy.asarray(stop_table(tokenizer.token_bytes(), stops)),
        )
        self._detokenizer = Detokenizer(tokenizer, stops)

    def __call__(self, requests: Iterable[Request]) -> Iterator[list[Sample]]:
        """Yields samples as they finish; their text is decoded while the devices compute the next ones.

        Raises:
          InputError: before anything is computed, if a prompt is empty or exceeds the model's positions.
        """
        model, policy = self._engine.model, self._engine.policy
        passes = plan_passes(model, policy, requests)
        weights = inference_weights(model, self.params)
        samples, last_yield = list[Sample](), time.monotonic()
        for sampling_pass in passes:
            self.shapes.add((padded_few_shot_length(policy, sampling_pass), sampling_pass.prompt_length))
            decode_pass = DecodePass(self._engine, weights, sampling_pass, self.stats)
            for finished in decode_pass.run():
                samples += map(self._to_sample, finished)
                waited = time.monotonic() - last_yield
                if len(samples) >= decode_pass.num_slots or (samples and waited > MAX_WAIT_SECONDS):
                    yield samples
                    samples, last_yield = [], time.monotonic()
        if samples:
            yield samples

    def _to_sample(self, finished: FinishedSequence) -> Sample:
        return Sample(
            question_id=finished.request.question_id,
            sample_index=finished.sample_index,
            text=self._detokenizer.text(finished.token_ids),
            finish_reason="stop" if finished.stopped else "length",
            logprob=finished.logprob,
            num_tokens=len(finished.token_ids),
            token_ids=finished.token_ids,
        )
