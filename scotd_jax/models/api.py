"""The seam: what every model is to the rest of the package, and the arrays that pass through it.

Axes used in names throughout the package:

    B questions in a batch     G responses of one question     P prompt tokens      R response tokens
    S tokens of one segment    T slots of a cache, C recent    V vocabulary         E width of the output embedding
    D model width              H query heads                   K key heads          Dh width of a head

A model is used through `prefill` and `extend` only. Training is `prefill` then `extend` over whole responses;
sampling is `prefill` then `extend` one token at a time with a cache.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

Params = Any  # nested dict of arrays, string keys


class Segment(NamedTuple):
    """Keys and values that several responses share: one pair of arrays per layer, or, where the layers are rolled into
    a loop (rolling.py), one pair for all of them, whose first axis are the layers.

    `keys[layer]` and `values[layer]` are [B, K, S, Dh], B being 1 where the whole batch shares the segment; `mask` is
    bool[B, S], False on padding, or bool[B, G, S] or bool[B, G, R, S] where responses see different tokens of it.
    """

    keys: tuple[jax.Array, ...] | jax.Array
    values: tuple[jax.Array, ...] | jax.Array
    mask: jax.Array


class Context(NamedTuple):
    """What a response can look back on besides itself: shared segments, in order, and where the response begins.

    `length` is int32[B] or int32[B, G], the number of real tokens before the response. Encoder-decoders ignore it:
    their decoder counts from zero.
    """

    segments: tuple[Segment, ...]
    length: jax.Array


class Cache(NamedTuple):
    """The own past of every response while it is being sampled, in two parts, so that rows may be of different age.

    `keys[layer]`, `values[layer]` are [B, G, K, T, Dh], of which every row has filled `length`, int32[B, G], slots.
    `recent_keys[layer]`, `recent_values[layer]` are [B, G, K, C, Dh]: the tokens since then, `index`, int32[], of
    them. `extend` writes all rows into the same recent slots and leaves the rest alone; `settle` (cache.py) moves them
    to where each row's past ends.
    """

    keys: tuple[jax.Array, ...]
    values: tuple[jax.Array, ...]
    length: jax.Array
    recent_keys: tuple[jax.Array, ...]
    recent_values: tuple[jax.Array, ...]
    index: jax.Array


@dataclasses.dataclass(frozen=True)
class Precision:
    """Which dtype does what. Parameters, logits, softmax and losses are float32 whatever is chosen here.

    `compute` is the dtype of matmul inputs and activations ("bfloat16" or "float32"); accumulation is float32.
    """

    compute: str = "bfloat16"


@dataclasses.dataclass(frozen=True)
class Model:
    """A model as pure functions of its parameters (a nested dict of float32 arrays). Made by `models.registry.build`.

    init(key) -> params
    prefill(params, tokens[B, P], mask[B, P], context=None, options=ForwardOptions(), questions=None) -> Context
        Right-padded prefixes. With a context the tokens come after it (question after shared exemplars). With
        `questions` each row holds the prompts of several questions (packed.py). `options` is that of training
        (forward_options.py); everything else leaves it out.
    extend(params, context, tokens[B, G, R], cache=None, options=ForwardOptions(), positions=None, questions=None)
            -> hidden[B, G, R, E], cache
        Without a cache: causal attention over the R tokens and the context, returns None for the cache. With a
        cache: the R tokens become recent ones of it. `hidden` is ready for the output matrix (norms, projections and
        scales applied). With `positions` each of the G rows holds several responses, one behind the other, and with
        `questions` they belong to several prompts of the context's last segment (packed.py); no cache then.
    unembedding(params) -> [V, E], the output matrix; logits are hidden @ unembedding.T (`logits` in layers.py).
    new_cache(batch, group, length, recent) -> Cache, empty, with so many slots of either kind per response.
    """

    config: Any
    precision: Precision
    init: Callable[[jax.Array], Params]
    prefill: Callable[..., Context]
    extend: Callable[..., tuple[jax.Array, Cache | None]]
    unembedding: Callable[[Params], jax.Array]
    new_cache: Callable[[int, int, int, int], Cache]
    axes: Callable[[], Any]  # tree like params: a tuple of logical axis names per parameter

    @property
    def start_token(self) -> int | None:
        """First decoder input; None where the prompt's last token is it (decoder-only)."""
        return self.config.start_token

    def abstract(self) -> Params:
        """Shapes and dtypes of the parameters, nothing allocated."""
        return jax.eval_shape(self.init, jax.random.key(0))
