"""Grouping of requests into passes: requests that share few-shot examples and a padded prompt length."""

import collections
from collections.abc import Iterable
from typing import NamedTuple

from scotd_jax.config import Sampling
from scotd_jax.errors import InputError
from scotd_jax.layout import round_up, split_prompt
from scotd_jax.models.api import LanguageModel
from scotd_jax.models.position_table import check_positions
from scotd_jax.sampling.requests import Request


class SamplingPass(NamedTuple):
    """Requests that run with the same array shapes.

    Attributes:
      few_shot_ids: token ids of the few-shot examples at the start of every prompt; empty if there are none.
      prompt_length: padded number of prompt tokens between the few-shot examples and the start token.
      requests: the requests, in their original order.
    """

    few_shot_ids: tuple[int, ...]
    prompt_length: int
    requests: list[Request]


class PromptParts(NamedTuple):
    """Token ids of the few-shot examples, of the rest of the prompt, and the first decoder input."""

    few_shot_ids: list[int]
    prompt_ids: list[int]
    start_token: int


def plan_passes(model: LanguageModel, policy: Sampling, requests: Iterable[Request]) -> list[SamplingPass]:
    """Groups requests into passes, longest few-shot examples and prompts first. Drops requests without samples.

    Raises:
      InputError: if a prompt is empty or does not fit the model's positions.
    """
    passes: dict[tuple[tuple[int, ...], int], list[Request]] = collections.defaultdict(list)
    for request in requests:
        _check_prompt(model, policy, request)
        parts = prompt_parts(model, request)
        if len(request.sample_indices):
            passes[tuple(parts.few_shot_ids), round_up(len(parts.prompt_ids), policy.bucket)].append(request)
    longest_first = sorted(passes, key=lambda key: (-len(key[0]), key[0], -key[1]))
    return [SamplingPass(*key, passes[key]) for key in longest_first]


def padded_few_shot_length(policy: Sampling, sampling_pass: SamplingPass) -> int:
    """Padded number of few-shot tokens of a pass; 0 without few-shot examples."""
    length = len(sampling_pass.few_shot_ids)
    return round_up(length, policy.bucket) if length else 0


def prompt_parts(model: LanguageModel, request: Request) -> PromptParts:
    """Splits a prompt into few-shot examples, the rest and the start token.

    An encoder-decoder model shares no few-shot examples, because its encoder attends across the whole prompt.
    """
    prefix, start_token = split_prompt(request.prompt_ids, model.start_token)
    shared = request.shared_length if model.start_token is None else 0
    return PromptParts(prefix[:shared], prefix[shared:], start_token)


def _check_prompt(model: LanguageModel, policy: Sampling, request: Request) -> None:
    where = f"question {request.question_id!r}"
    if not len(request.prompt_ids) and model.start_token is None:
        raise InputError(f"{where}: the prompt has no tokens; a decoder-only model needs at least one")
    prompt, response = len(request.prompt_ids), policy.max_new_tokens
    check_positions(
        model.config,
        prompt + response,
        f"{where}: {prompt} prompt tokens and max_new_tokens {response}",
        "shorten the prompt or lower max_new_tokens",
    )
