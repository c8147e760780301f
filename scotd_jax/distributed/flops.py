"""Model FLOPs of training updates, of prefill and of generation, from formulas.

Counts the FLOPs of matmuls (one multiplication and one addition per term) in programs with grouped attention, which
run every prompt once per question and every response once; the output matrix multiplies only response tokens. The
backward pass takes twice as many as the forward pass. Norms, activations, softmax and the optimizer, together a few
percent, are left out. As usual for MFU, recomputation that saves memory (attention weights, chunks of logits, remat) is
left out, too. Savings from frozen parameters are not subtracted.

The last layer of a decoder-only model needs only the keys and values of a prompt. Compilers remove the rest of that
layer, and the formulas do not count it.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any


@dataclasses.dataclass(frozen=True)
class MatmulSizes:
    """Sizes of a model's matmuls, summed over its layers.

    Attributes:
      prompt: weights that multiply each prompt token.
      response: weights that multiply each response token, without the output matrix.
      output: weights of the output matrix.
      prompt_attention: query heads times head width, for attention among prompt tokens.
      response_attention: query heads times head width, for attention from response tokens to prompt and response.
      causal_prompt: whether prompt tokens attend causally (decoder-only models).
    """

    prompt: int
    response: int
    output: int
    prompt_attention: int
    response_attention: int
    causal_prompt: bool


def matmul_sizes(config: Any) -> MatmulSizes | None:
    """Returns the sizes of an OPT, T5 or decoder config, or None for other kinds of model."""
    sizes_of = _SIZES_BY_KIND.get(getattr(config, "kind", ""))
    return None if sizes_of is None else sizes_of(config)


def training_flops(
    config: Any, *, questions: int, group: int, prompt: int, response: int, skip_masked: bool = False
) -> int:
    """Returns the FLOPs of one update.

    Args:
      config: model config.
      questions: number of prompts.
      group: responses per question.
      prompt: padded length of the prompts.
      response: padded length of the responses.
      skip_masked: leave out pairs of tokens that a causal mask hides. By default they count, as programs compute them.

    Returns:
      0 for unknown kinds of model.
    """
    sizes = matmul_sizes(config)
    if sizes is None:
        return 0
    forward = prefill_flops(config, sequences=questions, length=prompt, skip_masked=skip_masked)
    pairs = response * prompt + _pairs(response, skip_masked)
    per_response = 2 * response * (sizes.response + sizes.output) + 4 * sizes.response_attention * pairs
    return 3 * (forward + questions * group * per_response)


def prefill_flops(config: Any, *, sequences: int, length: int, before: int = 0, skip_masked: bool = False) -> int:
    """Returns the FLOPs of encoding prompts.

    Args:
      config: model config.
      sequences: number of prompts.
      length: padded length of the prompts.
      before: number of tokens of an encoded shared prefix to which the prompts attend.
      skip_masked: as in `training_flops`.

    Returns:
      0 for unknown kinds of model.
    """
    sizes = matmul_sizes(config)
    if sizes is None:
        return 0
    pairs = length * before + _pairs(length, skip_masked and sizes.causal_prompt)
    return sequences * (2 * length * sizes.prompt + 4 * sizes.prompt_attention * pairs)


def generation_flops(config: Any, *, questions: int, prompt: int, lengths: Iterable[int]) -> int:
    """Returns the FLOPs of generating responses with a cache; every prompt is computed once for all its responses.

    Args:
      config: model config.
      questions: number of prompts.
      prompt: their mean length in tokens.
      lengths: the number of tokens of every response.

    Returns:
      0 for unknown kinds of model.
    """
    sizes = matmul_sizes(config)
    if sizes is None:
        return 0
    tokens = pairs = 0
    for length in lengths:
        tokens += length
        pairs += length * prompt + _pairs(length, True)
    matmuls = 2 * tokens * (sizes.response + sizes.output)
    return prefill_flops(config, sequences=questions, length=prompt) + matmuls + 4 * sizes.response_attention * pairs


def _pairs(length: int, causal: bool) -> int:
    """Number of pairs of query and key."""
    return length * (length + 1) // 2 if causal else length * length


def _opt(config: Any) -> MatmulSizes:
    D, L = config.hidden_size, config.num_hidden_layers
    layer = 4 * D * D + 2 * D * config.ffn_dim
    projection = D * config.embed_width if config.embed_width != D else 0
    return MatmulSizes(
        prompt=projection + (L - 1) * layer + 2 * D * D,
        response=L * layer + 2 * projection,
        output=config.vocab_size * config.embed_width,
        prompt_attention=(L - 1) * D,
        response_attention=L * D,
        causal_prompt=True,
    )


def _decoder(config: Any) -> MatmulSizes:
    D, L = config.hidden_size, config.num_hidden_layers
    query_width, key_width = config.num_attention_heads * config.head_width, config.key_heads * config.head_width
    layer = D * (2 * query_width + 2 * key_width + 3 * config.intermediate_size)
    return MatmulSizes(
        prompt=(L - 1) * layer + 2 * D * key_width,
        response=L * layer,
        output=config.vocab_size * D,
        prompt_attention=(L - 1) * query_width,
        response_attention=L * query_width,
        causal_prompt=True,
    )


def _t5(config: Any) -> MatmulSizes:
    D, inner, decoder_layers = config.d_model, config.num_heads * config.d_kv, config.decoder_layers
    mlp = (3 if config.gated else 2) * D * config.d_ff
    cross_keys_values = 2 * D * inner
    return MatmulSizes(
        prompt=config.num_layers * (4 * D * inner + mlp) + decoder_layers * cross_keys_values,
        response=decoder_layers * (6 * D * inner + mlp),
        output=config.vocab_size * D,
        prompt_attention=config.num_layers * inner,
        response_attention=decoder_layers * inner,
        causal_prompt=False,
    )


_SIZES_BY_KIND = {"opt": _opt, "decoder": _decoder, "t5": _t5}
