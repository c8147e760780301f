"""Floating point operations by formula: of a training update, of prompts that are read, of one token per response.

Counted are the multiplications and additions of matrix products, two for each pair of numbers, of the grouped
program: a prompt once per question, every response once, attention to both, the output matrix on response tokens
alone. Norms, activations, softmax and the optimizer are left out; they are some hundredths of it. In a training update
the backward pass takes twice the forward pass. What it computes a second time to save memory (attention weights,
chunks of logits, rematerialised layers) is no work that the model asks for and is not counted, nor is what frozen
parameters would save. So these are the "model FLOPs" of MFU.

A program computes attention over whole rectangles, padding and masked pairs included, and so these are counted.
`needed=True` leaves out the pairs that a causal mask hides.

Nobody reads what the last layer of a decoder-only model makes of a prompt, only the keys and values that it starts
with; compilers leave the rest out, and so do the formulas.
"""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Weights in the matrices of a model, and widths of attention: query heads times their width, over all layers."""

    prompt: int  # weights through which a token of a prompt goes
    response: int  # weights through which a token of a response goes
    output: int  # weights of the output matrix
    within: int  # width of attention among tokens of a prompt
    across: int  # width of attention of responses, to the prompt as to themselves
    looks_back: bool  # tokens of a prompt see those before them only


def sizes(config: Any) -> Sizes | None:
    """Of an OPT, T5 or decoder config; None of one of another kind."""
    count = _KINDS.get(getattr(config, "kind", ""))
    return count and count(config)


def training_flops(config: Any, *, questions: int, group: int, prompt: int, response: int, needed: bool = False) -> int:
    """Of an update on prompts [questions, prompt] with responses [questions, group, response]. 0 for unknown models."""
    s = sizes(config)
    if s is None:
        return 0
    forward = prefill_flops(config, sequences=questions, length=prompt, needed=needed)
    each = 2 * response * (s.response + s.output) + 4 * s.across * (response * prompt + _pairs(response, needed))
    return 3 * (forward + questions * group * each)


def prefill_flops(config: Any, *, sequences: int, length: int, before: int = 0, needed: bool = False) -> int:
    """Of reading `sequences` prompts of `length` tokens that come after `before` shared ones. 0 for unknown models."""
    s = sizes(config)
    if s is None:
        return 0
    pairs = length * before + _pairs(length, needed and s.looks_back)
    return sequences * (2 * length * s.prompt + 4 * s.within * pairs)


def decode_flops(config: Any, *, rows: int, seen: int) -> int:
    """Of one more token for each of `rows` responses that look back on `seen` tokens, themselves included, or on so
    many slots of a cache if what is computed is asked for. 0 for unknown models."""
    s = sizes(config)
    return 0 if s is None else rows * (2 * (s.response + s.output) + 4 * s.across * seen)


def _pairs(length: int, causal: bool) -> int:
    return length * (length + 1) // 2 if causal else length * length


def _opt(config: Any) -> Sizes:
    D, L = config.hidden_size, config.num_hidden_layers
    layer, project = 4 * D * D + 2 * D * config.ffn_dim, 0
    if config.embed_width != D:
        project = D * config.embed_width
    return Sizes(
        prompt=project + (L - 1) * layer + 2 * D * D,
        response=L * layer + 2 * project,
        output=config.vocab_size * config.embed_width,
        within=(L - 1) * D,
        across=L * D,
        looks_back=True,
    )


def _decoder(config: Any) -> Sizes:
    D, L = config.hidden_size, config.num_hidden_layers
    inner, shared = config.num_attention_heads * config.head_width, config.key_heads * config.head_width
    layer = D * (2 * inner + 2 * shared + 3 * config.intermediate_size)
    return Sizes(
        prompt=(L - 1) * layer + 2 * D * shared,
        response=L * layer,
        output=config.vocab_size * D,
        within=(L - 1) * inner,
        across=L * inner,
        looks_back=True,
    )


def _t5(config: Any) -> Sizes:
    D, inner, above = config.d_model, config.num_heads * config.d_kv, config.decoder_layers
    mlp = (3 if config.gated else 2) * D * config.d_ff
    return Sizes(
        prompt=config.num_layers * (4 * D * inner + mlp) + above * 2 * D * inner,  # and what crosses over
        response=above * (6 * D * inner + mlp),
        output=config.vocab_size * D,
        within=config.num_layers * inner,
        across=above * inner,
        looks_back=False,
    )


_KINDS = {"opt": _opt, "decoder": _decoder, "t5": _t5}
