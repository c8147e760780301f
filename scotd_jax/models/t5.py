"""T5, the encoder-decoder of Raffel et al. (arXiv 1910.10683) in its three kinds, as Hugging Face defines its weights.

v1.0 has a ReLU MLP and ties the output matrix to the embedding, whose input is then scaled by width ** -0.5; v1.1 and
Flan have a gated GELU MLP and an output matrix of their own. All of them normalize by root mean square, do not scale
attention scores, and know positions only through a bias per head and bucket of distance, which each stack holds once
and all its layers share.

The encoder reads the prompt once per question; what every response needs of it, the cross-attention keys and values of
every decoder layer, is the one segment of the context.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from scotd_jax.errors import InputError
from scotd_jax.models import packed_masks
from scotd_jax.models.api import Context, Segment
from scotd_jax.models.attention import grouped_attention
from scotd_jax.models.cache import extended, of_layer, own_parts, visible
from scotd_jax.models.forward_options import ForwardOptions, no_dropout
from scotd_jax.models.hf import config_fields
from scotd_jax.models.layer_scan import through
from scotd_jax.models.layers import Dense, Heads, RMSNorm, each_of, embed, gated, normal, relu

# Logical axes of every parameter; the first pattern that fits counts.
AXES = (
    (r"embed/tokens", ("vocab", "embed")),
    (r"lm_head/kernel", ("vocab", "embed")),
    (r".*/rel_bias", (None, "heads")),
    (r".*/(attn|cross)/[qkv]/kernel", ("embed", "heads")),
    (r".*/(attn|cross)/o/kernel", ("heads", "embed")),
    (r".*/mlp/wi(_0|_1)?/kernel", ("embed", "mlp")),
    (r".*/mlp/wo/kernel", ("mlp", "embed")),
    (r".*/scale", (None,)),
)

_REQUIRED = {"model_type": "t5", "is_encoder_decoder": True}


@dataclasses.dataclass(frozen=True)
class T5Config:
    """Fields as in Hugging Face's config.json. Raises InputError on an MLP that is neither "relu" nor "gated-gelu"."""

    vocab_size: int = 32128
    d_model: int = 512
    d_kv: int = 64
    d_ff: int = 2048
    num_layers: int = 6
    num_decoder_layers: int | None = None  # None is num_layers
    num_heads: int = 8
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6
    initializer_factor: float = 1.0
    feed_forward_proj: str = "relu"
    tie_word_embeddings: bool = True
    pad_token_id: int = 0
    eos_token_id: int = 1
    decoder_start_token_id: int = 0

    def __post_init__(self):
        if self.feed_forward_proj not in ("relu", "gated-gelu"):
            raise InputError(f'T5: feed_forward_proj is {self.feed_forward_proj!r}; expected "relu" or "gated-gelu"')

    @property
    def kind(self) -> str:
        return "t5"

    @property
    def start_token(self) -> int:
        return self.decoder_start_token_id

    @property
    def decoder_layers(self) -> int:
        return self.num_layers if self.num_decoder_layers is None else self.num_decoder_layers

    @property
    def gated(self) -> bool:
        return self.feed_forward_proj == "gated-gelu"

    @property
    def cache_shape(self) -> tuple[int, int, int]:
        """Decoder layers, key heads, head width."""
        return self.decoder_layers, self.num_heads, self.d_kv

    @classmethod
    def from_hf(cls, values: Mapping[str, Any]) -> "T5Config":
        """Raises InputError on an architecture that differs from T5's."""
        return config_fields.read(cls, values, _REQUIRED, {})

    def to_hf(self) -> dict[str, Any]:
        fields = {**dataclasses.asdict(self), "num_decoder_layers": self.decoder_layers}
        return {**_REQUIRED, **fields, "architectures": ["T5ForConditionalGeneration"]}


def distance_bucket(distance: Int[Array, "*n"], bidirectional: bool, buckets: int, furthest: int) -> Int[Array, "*n"]:
    """Bucket of `distance` = key position - query position: one each for near ones, logarithmic up to `furthest`.

    Bidirectional stacks give half of the buckets to each side; causal ones look back only.
    """
    if bidirectional:
        buckets //= 2
        base, distance = jnp.where(distance > 0, buckets, 0), jnp.abs(distance)
    else:
        base, distance = jnp.zeros_like(distance), jnp.maximum(-distance, 0)
    exact = buckets // 2
    ratio = jnp.log(jnp.maximum(distance, 1).astype(jnp.float32) / exact) / math.log(furthest / exact)
    far = exact + (ratio * (buckets - exact)).astype(jnp.int32)
    return base + jnp.where(distance < exact, distance, jnp.minimum(far, buckets - 1))


class MLP(nnx.Module):
    def __init__(self, config: T5Config, dtype: str, rngs: nnx.Rngs):
        D, F, factor = config.d_model, config.d_ff, config.initializer_factor
        for name in ("wi_0", "wi_1") if config.gated else ("wi",):
            setattr(self, name, Dense(D, F, std=factor * D**-0.5, bias=False, narrow=True, dtype=dtype, rngs=rngs))
        self.wo = Dense(F, D, std=factor * F**-0.5, bias=False, dtype=dtype, rngs=rngs)
        self.gated = config.gated

    def __call__(self, x: jax.Array) -> jax.Array:
        if self.gated:
            return self.wo(gated(functools.partial(jax.nn.gelu, approximate=True), *each_of((self.wi_0, self.wi_1), x)))
        return self.wo(relu(self.wi(x)))


def _heads(config: T5Config, dtype: str, rngs: nnx.Rngs) -> Heads:
    D, H, Dh, factor = config.d_model, config.num_heads, config.d_kv, config.initializer_factor
    # Queries begin smaller by sqrt(Dh), which stands for the scaling of scores that T5 leaves out.
    stds = {"q": (D * Dh) ** -0.5, "k": D**-0.5, "v": D**-0.5, "o": (H * Dh) ** -0.5}
    return Heads(D, H, Dh, stds={n: factor * s for n, s in stds.items()}, bias=False, dtype=dtype, rngs=rngs)


class Layer(nnx.Module):
    def __init__(self, config: T5Config, dtype: str, rngs: nnx.Rngs, *, decoder: bool):
        width, eps = config.d_model, config.layer_norm_epsilon
        self.attn, self.attn_norm = _heads(config, dtype, rngs), RMSNorm(width, eps=eps)
        if decoder:
            self.cross, self.cross_norm = _heads(config, dtype, rngs), RMSNorm(width, eps=eps)
        self.mlp, self.mlp_norm = MLP(config, dtype, rngs), RMSNorm(width, eps=eps)

    def __call__(self, x, past, sights, prompts=(), dropout=no_dropout, attention=grouped_attention):
        """x[B, G, R, D] -> the same, and the keys and values to be kept. `prompts` are those parts of the segments
        that belong to this layer (decoder only)."""
        query, key, value = self.attn.all_three(self.attn_norm(x))
        own, kept = own_parts(past, key, value, sights)
        x = x + dropout(self.attn.output(attention(query, (), own, 1.0)), "attn")
        if prompts:
            query = self.cross.queries(self.cross_norm(x))
            x = x + dropout(self.cross.output(attention(query, prompts, (), 1.0)), "cross")
        return x + dropout(self.mlp(self.mlp_norm(x)), "mlp"), *kept


class Stack(nnx.Module):
    """Encoder or decoder: the layers, the bias of positions that they share, the norm behind them."""

    def __init__(self, config: T5Config, dtype: str, rngs: nnx.Rngs, *, decoder: bool):
        buckets, std = config.relative_attention_num_buckets, config.initializer_factor * config.d_model**-0.5
        layers = config.decoder_layers if decoder else config.num_layers
        self.rel_bias = normal(rngs, (buckets, config.num_heads), std)
        self.layers = nnx.Dict({str(i): Layer(config, dtype, rngs, decoder=decoder) for i in range(layers)})
        self.final_norm = RMSNorm(config.d_model, eps=config.layer_norm_epsilon)
        self.furthest, self.bidirectional = config.relative_attention_max_distance, not decoder

    def bias(self, queries: Int[Array, "*rows R"], keys: Int[Array, " T"]) -> Float[Array, "*rows H R T"]:
        """Bias of the queries at some positions towards the keys at others."""
        table = self.rel_bias[...]
        distance = keys.reshape((1,) * queries.ndim + keys.shape) - queries[..., None]
        buckets = distance_bucket(distance, self.bidirectional, table.shape[0], self.furthest)
        return jnp.moveaxis(table[buckets], -1, -3)


class Unembedding(nnx.Module):
    def __init__(self, config: T5Config, rngs: nnx.Rngs):
        # Hugging Face draws with deviation 1, which makes the first logits sqrt(width) too large; this is t5x's choice.
        self.kernel = normal(
            rngs, (config.vocab_size, config.d_model), config.initializer_factor * config.d_model**-0.5
        )


class Embeddings(nnx.Module):
    def __init__(self, config: T5Config, rngs: nnx.Rngs):
        self.tokens = normal(rngs, (config.vocab_size, config.d_model), config.initializer_factor)


class T5(nnx.Module):
    def __init__(self, config: T5Config, dtype: str, rngs: nnx.Rngs):
        self.embed = Embeddings(config, rngs)
        self.encoder = Stack(config, dtype, rngs, decoder=False)
        self.decoder = Stack(config, dtype, rngs, decoder=True)
        self.lm_head = None if config.tie_word_embeddings else Unembedding(config, rngs)
        self.scale = config.d_model**-0.5 if config.tie_word_embeddings else 1.0

    def prefill(self, tokens, mask, context=None, options=ForwardOptions(), questions=None):
        """Right-padded prompts [B, P] -> a Context of one segment: every decoder layer's view of the encoded prompt."""
        if context is not None:
            raise ValueError("an encoder-decoder has no context before the prompt: put exemplars into the prompt")
        positions = jnp.arange(tokens.shape[1])
        x = options.apply_dropout(embed(self.embed.tokens[...], tokens)[:, None], "encoder/embed")
        seen = mask[:, None, None]
        if questions is not None:  # distances between slots are those within a question
            seen = seen & packed_masks.same(questions)[:, None]
        sights = [(seen, self.encoder.bias(positions[None, None], positions))]

        def read(x, layer, i, _):
            return options.run_layer("encoder", i, layer, x, None, sights)[0], ()

        x, _ = through(read, x, self.encoder.layers, None, "encoder/layers/{}", options)
        x = self.encoder.final_norm(x)[:, 0]

        def look(_, cross, *__):
            return None, cross.keys_values(x)

        crosses = {name: layer.cross for name, layer in self.decoder.layers.items()}
        _, (keys, values) = through(look, None, crosses, None, "decoder/layers/{}/cross", options)
        return Context((Segment(keys, values, mask),), mask.sum(1, dtype=jnp.int32))

    def extend(self, context, tokens, cache=None, options=ForwardOptions(), positions=None, questions=None):
        """Responses [B, G, R] -> hidden [B, G, R, D] ready for the output matrix, and the cache."""
        context = context if questions is None else packed_masks.own_prompt(context, questions)
        x = options.apply_dropout(embed(self.embed.tokens[...], tokens), "decoder/embed")
        sights = self._sights(cache, tokens.shape[2], positions)

        def say(x, layer, i, shared):
            prompts = [(*pair, s.mask) for pair, s in zip(shared, context.segments, strict=True)]
            x, *kept = options.run_layer("decoder", i, layer, x, of_layer(cache, i), sights, prompts)
            return x, () if cache is None else tuple(kept)

        shared = [[s.keys, s.values] for s in context.segments]
        x, kept = through(say, x, self.decoder.layers, shared, "decoder/layers/{}", options)
        hidden = self.decoder.final_norm(x) * self.scale
        return hidden, None if cache is None else extended(cache, *kept, tokens.shape[2])

    def _sights(self, cache, R, positions=None):
        """Masks and biases of the own parts. Distances to recent tokens are the same in all rows, to the past not."""
        new = jnp.arange(R)[None, None]
        masks = visible(cache, R) if positions is None else [packed_masks.own_response(positions)]
        if cache is None:
            biases = [self.decoder.bias(new, new[0, 0])]
        else:
            T, C = cache.keys[0].shape[3], cache.recent_keys[0].shape[3]
            biases = [self.decoder.bias(cache.length[..., None] + cache.index + new, jnp.arange(T))]
            biases.append(self.decoder.bias(cache.index + new, jnp.arange(C)))
        return list(zip(masks, biases, strict=True))

    def unembedding(self):
        return self.embed.tokens[...] if self.lm_head is None else self.lm_head.kernel[...]
