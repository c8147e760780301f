"""The modern decoder-only model: Llama 2 and 3, Qwen 2, 2.5 and 3, Mistral, with the weights of Hugging Face.

Against OPT: no mean and no bias in the norms, positions that turn queries and keys instead of being added to the
tokens, several query heads that share one key head, and a gate in the MLP. Keys are turned before they are kept, in a
segment as in a cache, so what is kept depends on nothing that comes later.

Prefix and responses run through the same layers (decoder_only.py).
"""

import functools

import jax
from flax import nnx

from scotd_jax.models.attention import grouped_attention
from scotd_jax.models.cache import own_parts
from scotd_jax.models.decoder_config import DecoderConfig
from scotd_jax.models.decoder_only import DecoderOnly
from scotd_jax.models.forward_options import no_dropout, save_for_backward
from scotd_jax.models.layers import Dense, RMSNorm, each_of, embed, gated, normal
from scotd_jax.models.rope import frequencies, rotate, rotation

# Logical axes of every parameter; the first pattern that fits counts.
AXES = (
    (r"embed/tokens", ("vocab", "embed")),
    (r"lm_head/kernel", ("vocab", "embed")),
    (r".*/attn/q/kernel", ("embed", "heads")),
    (r".*/attn/q/bias", ("heads",)),
    (r".*/attn/[kv]/kernel", ("embed", "kv")),
    (r".*/attn/[kv]/bias", ("kv",)),
    (r".*/attn/o/kernel", ("heads", "embed")),
    (r".*/mlp/(gate|up)/kernel", ("embed", "mlp")),
    (r".*/mlp/(gate|up)/bias", ("mlp",)),
    (r".*/mlp/down/kernel", ("mlp", "embed")),
    (r"(.*/)?(bias|scale)", (None,)),
)

_ACTIVATIONS = {
    "silu": jax.nn.silu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_pytorch_tanh": functools.partial(jax.nn.gelu, approximate=True),
}


class Tokens(nnx.Module):
    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
        self.tokens = normal(rngs, (config.vocab_size, config.hidden_size), config.initializer_range)


class Head(nnx.Module):
    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
        self.kernel = normal(rngs, (config.vocab_size, config.hidden_size), config.initializer_range)


class Attention(nnx.Module):
    """H query heads and K key heads of width Dh; query head h reads key head h // (H / K)."""

    def __init__(self, config: DecoderConfig, dtype: str, rngs: nnx.Rngs):
        width, head = config.hidden_size, config.head_width
        inner, shared = config.num_attention_heads * head, config.key_heads * head
        shape = {"std": config.initializer_range, "dtype": dtype, "rngs": rngs}
        self.q = Dense(width, inner, bias=config.qkv_bias, **shape)
        self.k = Dense(width, shared, bias=config.qkv_bias, **shape)
        self.v = Dense(width, shared, bias=config.qkv_bias, **shape)
        self.o = Dense(inner, width, bias=config.attention_bias, **shape)
        self.q_norm = RMSNorm(head, eps=config.rms_norm_eps) if config.qk_norm else None
        self.k_norm = RMSNorm(head, eps=config.rms_norm_eps) if config.qk_norm else None
        self.head, self.dtype = head, dtype

    def __call__(self, x, turn, segments, past, sights, attention=grouped_attention):
        """x[B, G, R, D] -> the same, and the keys and values to be kept.

        `turn` are the cosines and sines of the tokens' positions.
        """
        query, key, value = map(self._split, each_of((self.q, self.k, self.v), x))
        if self.q_norm is not None:
            query, key = self.q_norm(query), self.k_norm(key)
        query, key = rotate(query, *turn), rotate(key, *turn)  # in float32, as everything between two products
        query, key, value = (save_for_backward(each.astype(self.dtype)) for each in (query, key, value))
        own, kept = own_parts(past, key.swapaxes(2, 3), value.swapaxes(2, 3), sights)
        h = attention(query, segments, own, scale=self.head**-0.5)
        return self.o(h.reshape(*h.shape[:-2], -1)), *kept

    def _split(self, x: jax.Array) -> jax.Array:
        return x.reshape(*x.shape[:-1], -1, self.head)


class MLP(nnx.Module):
    def __init__(self, config: DecoderConfig, dtype: str, rngs: nnx.Rngs):
        shape = {"std": config.initializer_range, "bias": config.mlp_bias, "dtype": dtype, "rngs": rngs}
        self.gate = Dense(config.hidden_size, config.intermediate_size, narrow=True, **shape)
        self.up = Dense(config.hidden_size, config.intermediate_size, narrow=True, **shape)
        self.down = Dense(config.intermediate_size, config.hidden_size, **shape)
        self.act = config.hidden_act

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.down(gated(_ACTIVATIONS[self.act], *each_of((self.gate, self.up), x)))


class Layer(nnx.Module):
    def __init__(self, config: DecoderConfig, dtype: str, rngs: nnx.Rngs):
        self.attn_norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.attn = Attention(config, dtype, rngs)
        self.mlp_norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = MLP(config, dtype, rngs)

    def __call__(self, x, turn, segments, past, sights, dropout=no_dropout, attention=grouped_attention):
        h, key, value = self.attn(self.attn_norm(x), turn, segments, past, sights, attention)
        x = x + dropout(h, "attn")
        return x + dropout(self.mlp(self.mlp_norm(x)), "mlp"), key, value


class Decoder(DecoderOnly):
    def __init__(self, config: DecoderConfig, dtype: str, rngs: nnx.Rngs):
        self.embed = Tokens(config, rngs)
        self.layers = nnx.Dict({str(i): Layer(config, dtype, rngs) for i in range(config.num_hidden_layers)})
        self.final_norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.lm_head = None if config.tie_word_embeddings else Head(config, rngs)
        self.config = config

    def inputs(self, tokens, positions):
        config = self.config
        turn = rotation(positions, *frequencies(config.head_width, config.rope_theta, config.rope_scaling))
        return embed(self.embed.tokens[...], tokens), (turn,)

    def outputs(self, x):
        return self.final_norm(x)

    def unembedding(self):
        return self.embed.tokens[...] if self.lm_head is None else self.lm_head.kernel[...]
