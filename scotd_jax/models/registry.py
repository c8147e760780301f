"""Builds models from configs and defines the named presets.

`build` splits a flax module into its structure and its parameters and returns pure functions of a nested dict of
arrays. Outside of `models/` everything is plain JAX: nothing there uses flax modules.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from scotd_jax.errors import InputError, did_you_mean
from scotd_jax.models.api import Cache, Context, LanguageModel, Params, Precision
from scotd_jax.models.decoder import Decoder
from scotd_jax.models.decoder_config import DecoderConfig
from scotd_jax.models.forward_options import ForwardOptions
from scotd_jax.models.hf import config_fields
from scotd_jax.models.opt import OPT
from scotd_jax.models.opt_config import OPTConfig
from scotd_jax.models.packed_masks import QuestionIds
from scotd_jax.models.param_axes import param_axes
from scotd_jax.models.rope import RopeScaling
from scotd_jax.models.t5 import T5
from scotd_jax.models.t5_config import T5Config

ModelConfig = OPTConfig | T5Config | DecoderConfig
DEFAULT_PRECISION = Precision()
_MODULES: Mapping[str, Callable[..., nnx.Module]] = {"opt": OPT, "t5": T5, "decoder": Decoder}


# Shorthands for the tables below, whose positional arguments follow these signatures.
def _opt(width: int, layers: int, heads: int, **rest) -> OPTConfig:
    fields = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads, "ffn_dim": 4 * width}
    return OPTConfig(**fields, **rest)


def _t5(width: int, mlp: int, layers: int, heads: int, head_width: int = 64, **rest) -> T5Config:
    fields = {"d_model": width, "d_ff": mlp, "num_layers": layers, "num_heads": heads, "d_kv": head_width}
    return T5Config(**fields, **rest)


def _decoder(model_type: str, width: int, mlp: int, layers: int, heads: int, key_heads: int, **rest) -> DecoderConfig:
    fields = {"model_type": model_type, "hidden_size": width, "intermediate_size": mlp, "num_hidden_layers": layers}
    return DecoderConfig(**fields, num_attention_heads=heads, num_key_value_heads=key_heads, **rest)


# `sizes` of the families below are the positional arguments of `_decoder` after `model_type`.
def _llama3(*sizes: int, factor: float, **rest) -> DecoderConfig:
    scaling = RopeScaling("llama3", factor, 1.0, 4.0, original_max_position_embeddings=8192)
    positions = {"rope_theta": 500_000.0, "rope_scaling": scaling, "max_position_embeddings": 131_072}
    tokens = {"vocab_size": 128_256, "bos_token_id": 128_000, "eos_token_id": 128_001}
    return _decoder("llama", *sizes, rms_norm_eps=1e-5, **positions, **tokens, **rest)


def _qwen(model_type: str, *sizes: int, vocab_size: int = 151_936, **rest) -> DecoderConfig:
    tokens = {"vocab_size": vocab_size, "bos_token_id": 151_643, "eos_token_id": 151_643}
    return _decoder(model_type, *sizes, rope_theta=1_000_000.0, **tokens, **rest)


def _smollm2(*sizes: int, rope_theta: float = 100_000.0) -> DecoderConfig:
    tokens = {"vocab_size": 49_152, "bos_token_id": 0, "eos_token_id": 0}
    positions = {"rope_theta": rope_theta, "max_position_embeddings": 8192}
    return _decoder("llama", *sizes, rms_norm_eps=1e-5, tie_word_embeddings=True, **positions, **tokens)


def _gemma3(*sizes: int) -> DecoderConfig:
    fields = {"head_dim": 256, "hidden_act": "gelu_pytorch_tanh", "query_pre_attn_scalar": 256}
    positions = {"rope_theta": 1_000_000.0, "rope_local_base_freq": 10_000.0, "max_position_embeddings": 32_768}
    window = {"sliding_window": 512, "sliding_window_pattern": 6}
    tokens = {"vocab_size": 262_144, "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
    return _decoder("gemma3_text", *sizes, tie_word_embeddings=True, **fields, **positions, **window, **tokens)


_QWEN3 = {"head_dim": 128, "max_position_embeddings": 40_960, "tie_word_embeddings": True}
_GATED = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
_T5_GATED = {
    "small": _t5(512, 1024, 8, 6, **_GATED),
    "base": _t5(768, 2048, 12, 12, **_GATED),
    "large": _t5(1024, 2816, 24, 16, **_GATED),
    "xl": _t5(2048, 5120, 24, 32, **_GATED),
    "xxl": _t5(4096, 10240, 24, 64, **_GATED),
}

PRESETS: Mapping[str, ModelConfig] = {
    "opt-tiny": _opt(64, 2, 4, vocab_size=256, max_position_embeddings=256),
    "opt-125m": _opt(768, 12, 12),
    "opt-350m": _opt(1024, 24, 16, word_embed_proj_dim=512, do_layer_norm_before=False),
    "opt-1.3b": _opt(2048, 24, 32),
    "opt-2.7b": _opt(2560, 32, 32),
    "opt-6.7b": _opt(4096, 32, 32),
    "opt-13b": _opt(5120, 40, 40),
    "opt-30b": _opt(7168, 48, 56),
    "opt-66b": _opt(9216, 64, 72),
    "t5-tiny": _t5(64, 256, 2, 4, 16, vocab_size=256),
    "t5-small": _t5(512, 2048, 6, 8),
    "t5-base": _t5(768, 3072, 12, 12),
    "t5-large": _t5(1024, 4096, 24, 16),
    "t5-3b": _t5(1024, 16384, 24, 32, 128),
    "t5-11b": _t5(1024, 65536, 24, 128, 128),
    **{f"t5-v1.1-{size}": config for size, config in _T5_GATED.items()},
    **{f"flan-t5-{size}": config for size, config in _T5_GATED.items()},
    "decoder-tiny": _decoder("llama", 64, 172, 2, 4, 2, vocab_size=256, max_position_embeddings=256),
    "llama-3.2-1b": _llama3(2048, 8192, 16, 32, 8, factor=32.0, tie_word_embeddings=True),
    "llama-3.1-8b": _llama3(4096, 14336, 32, 32, 8, factor=8.0),
    "llama-3.1-70b": _llama3(8192, 28672, 80, 64, 8, factor=8.0),
    "tinyllama-1.1b": _decoder("llama", 2048, 5632, 22, 32, 4, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2),
    "smollm2-135m": _smollm2(576, 1536, 30, 9, 3),
    "smollm2-360m": _smollm2(960, 2560, 32, 15, 5),
    "smollm2-1.7b": _smollm2(2048, 8192, 24, 32, 32, rope_theta=130_000.0),
    "qwen2.5-0.5b": _qwen("qwen2", 896, 4864, 24, 14, 2, max_position_embeddings=32_768, tie_word_embeddings=True),
    "qwen2.5-1.5b": _qwen("qwen2", 1536, 8960, 28, 12, 2, max_position_embeddings=131_072, tie_word_embeddings=True),
    "qwen2.5-7b": _qwen("qwen2", 3584, 18944, 28, 28, 4, vocab_size=152_064, max_position_embeddings=131_072),
    "qwen3-0.6b": _qwen("qwen3", 1024, 3072, 28, 16, 8, **_QWEN3),
    "qwen3-1.7b": _qwen("qwen3", 2048, 6144, 28, 16, 8, **_QWEN3),
    "gemma-3-270m": _gemma3(640, 2048, 18, 4, 1),
    "gemma-3-1b": _gemma3(1152, 6912, 26, 4, 1),
    "smollm3-3b": _decoder(
        "smollm3",
        2048,
        11_008,
        36,
        16,
        4,
        vocab_size=128_256,
        max_position_embeddings=65_536,
        tie_word_embeddings=True,
        no_rope_layer_interval=4,
        rope_theta=5_000_000.0,
        bos_token_id=128_000,
        eos_token_id=128_012,
        pad_token_id=128_004,
    ),
    "mistral-7b": _decoder(
        "mistral",
        4096,
        14336,
        32,
        32,
        8,
        vocab_size=32_768,
        max_position_embeddings=32_768,
        rms_norm_eps=1e-5,
        rope_theta=1_000_000.0,
        bos_token_id=1,
        eos_token_id=2,
    ),
}


def config_for(architecture: str, overrides: Mapping[str, Any] | None = None) -> ModelConfig:
    """Returns the preset `architecture` with some fields replaced.

    Raises:
      InputError: on an unknown name or field, or a value of the wrong type.
    """
    if architecture not in PRESETS:
        raise InputError(f"architecture {architecture!r} is unknown; {did_you_mean(architecture, PRESETS)}")
    config, overrides = PRESETS[architecture], dict(overrides or {})
    fields = [f.name for f in dataclasses.fields(config)]
    for name in overrides:
        if name not in fields:
            raise InputError(f"overrides.{name}: {architecture} has no such field; {did_you_mean(name, fields)}")
    return dataclasses.replace(config, **config_fields.checked(type(config), overrides, "overrides."))


@functools.cache
def build(config: ModelConfig, precision: Precision = DEFAULT_PRECISION, platform: str = "") -> LanguageModel:
    """Returns the model of a config as pure functions (see `api.LanguageModel`).

    Equal arguments return the same object, so that its compiled programs are shared.

    Args:
      config: the model config.
      precision: the compute dtype.
      platform: "cpu", "tpu" or "cuda"; "" for the default backend of this process.
    """

    def construct(key: jax.Array) -> nnx.Module:
        return _MODULES[config.kind](config, precision.compute, nnx.Rngs(key))

    graphdef, _ = nnx.split(nnx.eval_shape(lambda: construct(jax.random.key(0))))

    def bind(params: Params) -> Any:
        return nnx.merge(graphdef, jax.tree.map(jnp.asarray, params))

    def init(key: jax.Array) -> Params:
        return nnx.to_pure_dict(nnx.state(construct(key)))

    def prefill(
        params: Params,
        tokens: jax.typing.ArrayLike,
        mask: jax.typing.ArrayLike,
        context: Context | None = None,
        options: ForwardOptions = ForwardOptions(),
        questions: jax.typing.ArrayLike | None = None,
    ) -> Context:
        return bind(params).prefill(jnp.asarray(tokens), jnp.asarray(mask), context, options, questions)

    def extend(
        params: Params,
        context: Context,
        tokens: jax.typing.ArrayLike,
        cache: Cache | None = None,
        options: ForwardOptions = ForwardOptions(),
        positions: jax.typing.ArrayLike | None = None,
        questions: QuestionIds | None = None,
    ) -> tuple[jax.Array, Cache | None]:
        return bind(params).extend(context, jnp.asarray(tokens), cache, options, positions, questions)

    # Jitted because it is also called outside of compiled programs: there nnx.merge leaves a reference cycle behind,
    # which keeps all parameters in memory until the next garbage collection.
    @jax.jit
    def unembedding(params: Params) -> jax.Array:
        return bind(params).unembedding()

    def new_cache(batch: int, group: int, length: int, recent: int) -> Cache:
        layers, heads, width = config.cache_shape

        def slots(count: int) -> tuple[jax.Array, ...]:
            return tuple(
                jnp.zeros((batch, group, heads, count, width), _cache_dtype(precision, platform)) for _ in range(layers)
            )

        lengths, index = jnp.zeros((batch, group), jnp.int32), jnp.zeros((), jnp.int32)
        return Cache(slots(length), slots(length), lengths, slots(recent), slots(recent), index)

    def axes() -> Any:
        query_heads = config.num_heads if isinstance(config, T5Config) else config.num_attention_heads
        heads = {"heads": query_heads, "kv": config.cache_shape[1]}
        return jax.tree_util.tree_map_with_path(
            lambda path, _: param_axes(config.kind, "/".join(entry.key for entry in path), heads), abstract()
        )

    def abstract() -> Params:
        return jax.eval_shape(init, jax.random.key(0))

    return LanguageModel(config, precision, jax.jit(init), prefill, extend, unembedding, new_cache, axes)


def _cache_dtype(precision: Precision, platform: str) -> str:
    # XLA for CPUs multiplies single rows with matrices in float32 only and would convert a whole bfloat16 cache at
    # every step (measured: 10 to 25 times slower). The cached values are the same, stored in a wider dtype.
    return "float32" if (platform or jax.default_backend()) == "cpu" else precision.compute
