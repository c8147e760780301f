"""T5, the encoder-decoder of Raffel et al. (arXiv 1910.10683), in its three variants with Hugging Face's weights.

T5 v1.0 has a ReLU MLP and ties the output matrix to the embedding, scaling the last hidden state by width ** -0.5. v1.1
and Flan-T5 have a gated GELU MLP and an untied output matrix. All variants normalize by root mean square, do not scale
attention scores, and encode positions only by a bias per head and distance bucket, which all layers of a stack share.

The encoder runs once per question. The cross-attention keys and values of all decoder layers form the only segment of
the context; responses need nothing else from the encoder.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from scotd_jax.models.api import Cache, Context, Segment
from scotd_jax.models.attention import SharedKV, grouped_attention
from scotd_jax.models.cache import LayerCache, MaskAndBias, append_to_cache, cache_masks, layer_cache, with_recent
from scotd_jax.models.forward_options import Attention, Dropout, ForwardOptions, no_dropout
from scotd_jax.models.layer_scan import scan_over_layers, uses_scan
from scotd_jax.models.layers import (
    AttentionProjections,
    Dense,
    RMSNorm,
    TokenEmbedding,
    Unembedding,
    embed,
    gated_activation,
    normal_param,
    parallel_dense,
    relu,
)
from scotd_jax.models.packed_masks import QuestionIds, packed_context, packed_response_mask, same_id_mask
from scotd_jax.models.relative_position import position_bias
from scotd_jax.models.t5_config import T5Config


class T5(nnx.Module):
    """Encoder-decoder model with relative position biases (T5, T5 v1.1, Flan-T5)."""

    def __init__(self, config: T5Config, dtype: str, rngs: nnx.Rngs):
        V, D, std = config.vocab_size, config.d_model, config.initializer_factor
        self.embed = TokenEmbedding(V, D, std=std, rngs=rngs)
        self.encoder = T5Encoder(config, dtype, rngs)
        self.decoder = T5Decoder(config, dtype, rngs)
        # As in t5x. Hugging Face's standard deviation of 1 makes the initial logits too large by a factor sqrt(width).
        self.lm_head = None if config.tie_word_embeddings else Unembedding(V, D, std=std * D**-0.5, rngs=rngs)
        self.output_scale = config.d_model**-0.5 if config.tie_word_embeddings else 1.0

    def prefill(
        self,
        tokens_BP: Int[Array, "B P"],
        mask_BP: Bool[Array, "B P"],
        context: Context | None = None,
        options: ForwardOptions = ForwardOptions(),
        questions_BP: Int[Array, "B P"] | None = None,
    ) -> Context:
        """Encodes right-padded prompts; see `api.LanguageModel`."""
        if context is not None:
            raise ValueError("an encoder-decoder takes no context before the prompt: put few-shot examples into it")
        encoded_BPD = self.encoder(self.embed.tokens[...], tokens_BP, mask_BP, options, questions_BP)
        keys, values = self.decoder.cross_keys_values(encoded_BPD, options)
        return Context((Segment(keys, values, mask_BP),), mask_BP.sum(1, dtype=jnp.int32))

    def extend(
        self,
        context: Context,
        tokens_BGR: Int[Array, "B G R"],
        cache: Cache | None = None,
        options: ForwardOptions = ForwardOptions(),
        positions_BGR: Int[Array, "B G R"] | None = None,
        questions: QuestionIds | None = None,
    ) -> tuple[Float[Array, "B G R D"], Cache | None]:
        """Decodes responses; see `api.LanguageModel`."""
        context = context if questions is None else packed_context(context, questions)
        x_BGRD, keys, values = self.decoder(
            self.embed.tokens[...], tokens_BGR, context.segments, cache, options, positions_BGR
        )
        hidden_BGRD = x_BGRD * self.output_scale
        return hidden_BGRD, None if cache is None else with_recent(cache, (keys, values), tokens_BGR.shape[2])

    def unembedding(self) -> Float[Array, "V D"]:
        return self.embed.tokens[...] if self.lm_head is None else self.lm_head.kernel[...]


class T5Encoder(nnx.Module):
    """Bidirectional encoder; all layers share one relative position bias."""

    def __init__(self, config: T5Config, dtype: str, rngs: nnx.Rngs):
        self.rel_bias = _position_bias_table(config, rngs)
        self.layers = nnx.Dict({str(i): T5EncoderLayer(config, dtype, rngs) for i in range(config.num_layers)})
        self.final_norm = _norm(config)
        self.max_distance = config.relative_attention_max_distance

    def __call__(
        self,
        embedding_VD: Float[Array, "V D"],
        tokens_BP: Int[Array, "B P"],
        mask_BP: Bool[Array, "B P"],
        options: ForwardOptions,
        questions_BP: Int[Array, "B P"] | None,
    ) -> Float[Array, "B P D"]:
        """Returns the encoded prompts.

        Inside, a prompt has the shape of a question's only response, [B, 1, P, D], as attention requires.
        """
        positions_P = jnp.arange(tokens_BP.shape[1])
        x_B1PD = options.apply_dropout(embed(embedding_VD, tokens_BP)[:, None], "encoder/embed")
        mask = mask_BP[:, None, None]
        if questions_BP is not None:  # distances need no change: a question's tokens are adjacent
            mask = mask & same_id_mask(questions_BP)[:, None]
        bias = position_bias(self.rel_bias[...], positions_P[None, None], positions_P, True, self.max_distance)

        def layer_step(x_B1PD, layer, i, _):
            return options.run_layer("encoder", i, layer, x_B1PD, (mask, bias)), ()

        if uses_scan(options, self.layers):
            x_B1PD, _ = scan_over_layers(layer_step, x_B1PD, self.layers, None, "encoder/layers/{}", options)
        else:
            for i in range(len(self.layers)):
                x_B1PD, _ = layer_step(x_B1PD, self.layers[str(i)], i, None)
        return self.final_norm(x_B1PD)[:, 0]


class T5EncoderLayer(nnx.Module):
    """Pre-norm layer: self-attention, then MLP, each with a residual connection."""

    def __init__(self, config: T5Config, dtype: str, rngs: nnx.Rngs):
        self.attn, self.attn_norm = _attention_projections(config, dtype, rngs), _norm(config)
        self.mlp, self.mlp_norm = T5MLP(config, dtype, rngs), _norm(config)

    def __call__(
        self,
        x: Float[Array, "B 1 P D"],
        mask_and_bias: MaskAndBias,
        dropout: Dropout = no_dropout,
        attention: Attention = grouped_attention,
    ) -> Float[Array, "B 1 P D"]:
        query, key, value = self.attn.query_key_value(self.attn_norm(x))
        x = x + dropout(self.attn.output(attention(query, (), [(key, value, *mask_and_bias)], 1.0)), "attn")
        return x + dropout(self.mlp(self.mlp_norm(x)), "mlp")


class T5Decoder(nnx.Module):
    """Causal decoder with cross-attention to the encoder."""

    def __init__(self, config: T5Config, dtype: str, rngs: nnx.Rngs):
        self.rel_bias = _position_bias_table(config, rngs)
        self.layers = nnx.Dict({str(i): T5DecoderLayer(config, dtype, rngs) for i in range(config.decoder_layers)})
        self.final_norm = _norm(config)
        self.max_distance = config.relative_attention_max_distance

    def cross_keys_values(self, encoded_BPD: Float[Array, "B P D"], options: ForwardOptions) -> tuple[Any, Any]:
        """Returns the cross-attention keys and values of all layers, as in `api.Segment`."""
        cross = {name: layer.cross for name, layer in self.layers.items()}
        if uses_scan(options, cross):

            def step(_, projections, *unused):
                return None, projections.key_value(encoded_BPD)

            return scan_over_layers(step, None, cross, None, "decoder/layers/{}/cross", options)[1]
        keys, values = zip(*(cross[str(i)].key_value(encoded_BPD) for i in range(len(cross))), strict=True)
        return keys, values

    def __call__(
        self,
        embedding_VD: Float[Array, "V D"],
        tokens_BGR: Int[Array, "B G R"],
        segments: Sequence[Segment],
        cache: Cache | None,
        options: ForwardOptions,
        positions_BGR: Int[Array, "B G R"] | None,
    ) -> tuple[Float[Array, "B G R D"], Any, Any]:
        """Returns the normalized output of the last layer, and the keys and values of all layers for the cache."""
        x_BGRD = options.apply_dropout(embed(embedding_VD, tokens_BGR), "decoder/embed")
        masks_and_biases = self._masks_and_biases(cache, tokens_BGR.shape[2], positions_BGR)

        def layer_step(x_BGRD, layer, i, cross_keys_values):
            prompt = [(*kv, segment.mask) for kv, segment in zip(cross_keys_values, segments, strict=True)]
            args = x_BGRD, layer_cache(cache, i), masks_and_biases, prompt
            x_BGRD, key, value = options.run_layer("decoder", i, layer, *args)
            return x_BGRD, (key, value)

        keys, values = [], []
        if uses_scan(options, self.layers):
            cross = [(s.keys, s.values) for s in segments]
            x_BGRD, _ = scan_over_layers(
                layer_step, x_BGRD, self.layers, cross, "decoder/layers/{}", options, keep_outputs=cache is not None
            )
        else:
            for i in range(len(self.layers)):
                cross = [(s.keys[i], s.values[i]) for s in segments]
                x_BGRD, (key, value) = layer_step(x_BGRD, self.layers[str(i)], i, cross)
                keys.append(key)
                values.append(value)
        return self.final_norm(x_BGRD), keys, values

    def _masks_and_biases(
        self, cache: Cache | None, R: int, positions_BGR: Int[Array, "B G R"] | None
    ) -> list[MaskAndBias]:
        """Returns a mask and a bias for a response's past keys and for its recent keys, or without a cache for all."""

        def bias(queries: Int[Array, "_ _ R"], keys: Int[Array, " T"]) -> Float[Array, "_ _ H R T"]:
            return position_bias(self.rel_bias[...], queries, keys, False, self.max_distance)

        new = jnp.arange(R)[None, None]
        masks = cache_masks(cache, R) if positions_BGR is None else [packed_response_mask(positions_BGR)]
        if cache is None:
            biases = [bias(new, new[0, 0])]
        else:
            T, C = cache.keys[0].shape[3], cache.recent_keys[0].shape[3]
            biases = [bias(cache.length[..., None] + cache.index + new, jnp.arange(T))]
            biases.append(bias(cache.index + new, jnp.arange(C)))
        return list(zip(masks, biases, strict=True))


class T5DecoderLayer(nnx.Module):
    """Pre-norm layer: self-attention, cross-attention, then MLP, each with a residual connection."""

    def __init__(self, config: T5Config, dtype: str, rngs: nnx.Rngs):
        self.attn, self.attn_norm = _attention_projections(config, dtype, rngs), _norm(config)
        self.cross, self.cross_norm = _attention_projections(config, dtype, rngs), _norm(config)
        self.mlp, self.mlp_norm = T5MLP(config, dtype, rngs), _norm(config)

    def __call__(
        self,
        x: Float[Array, "B G R D"],
        cache: LayerCache | None,
        masks_and_biases: Sequence[MaskAndBias],
        prompt: Sequence[SharedKV],
        dropout: Dropout = no_dropout,
        attention: Attention = grouped_attention,
    ) -> tuple[Float[Array, "B G R D"], Array, Array]:
        """Returns the layer's output, and the keys and values for the cache."""
        query, key, value = self.attn.query_key_value(self.attn_norm(x))
        own, key, value = append_to_cache(cache, key, value, masks_and_biases)
        x = x + dropout(self.attn.output(attention(query, (), own, 1.0)), "attn")
        query = self.cross.query(self.cross_norm(x))
        x = x + dropout(self.cross.output(attention(query, prompt, (), 1.0)), "cross")
        return x + dropout(self.mlp(self.mlp_norm(x)), "mlp"), key, value


class T5MLP(nnx.Module):
    """MLP with ReLU in T5 v1.0, with gated GELU in v1.1 and Flan-T5."""

    def __init__(self, config: T5Config, dtype: str, rngs: nnx.Rngs):
        D, F, factor = config.d_model, config.d_ff, config.initializer_factor
        shared = {"bias": False, "dtype": dtype, "rngs": rngs}
        if config.gated:
            self.wi_0 = Dense(D, F, std=factor * D**-0.5, out_dtype=dtype, **shared)
            self.wi_1 = Dense(D, F, std=factor * D**-0.5, out_dtype=dtype, **shared)
        else:
            self.wi = Dense(D, F, std=factor * D**-0.5, out_dtype=dtype, **shared)
        self.wo = Dense(F, D, std=factor * F**-0.5, **shared)
        self.gated = config.gated

    def __call__(self, x: Float[Array, "*lead D"]) -> Float[Array, "*lead D"]:
        if self.gated:
            gate, up = parallel_dense((self.wi_0, self.wi_1), x)
            return self.wo(gated_activation(functools.partial(jax.nn.gelu, approximate=True), gate, up))
        return self.wo(relu(self.wi(x)))


def _position_bias_table(config: T5Config, rngs: nnx.Rngs) -> nnx.Param:
    std = config.initializer_factor * config.d_model**-0.5
    return normal_param(rngs, (config.relative_attention_num_buckets, config.num_heads), std)


def _attention_projections(config: T5Config, dtype: str, rngs: nnx.Rngs) -> AttentionProjections:
    D, H, Dh, factor = config.d_model, config.num_heads, config.d_kv, config.initializer_factor
    # T5 does not scale attention scores; its initial queries are smaller by a factor sqrt(Dh) instead.
    stds = {"q": (D * Dh) ** -0.5, "k": D**-0.5, "v": D**-0.5, "o": (H * Dh) ** -0.5}
    stds = {name: factor * std for name, std in stds.items()}
    return AttentionProjections(D, H, Dh, stds=stds, bias=False, dtype=dtype, rngs=rngs)


def _norm(config: T5Config) -> RMSNorm:
    return RMSNorm(config.d_model, eps=config.layer_norm_epsilon)
