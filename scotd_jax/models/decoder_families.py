"""Families of the modern decoder: Hugging Face's conventions for each model type."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class DecoderFamily(NamedTuple):
    """Hugging Face's conventions for one model type.

    Attributes:
      architecture: the class in transformers.
      fields: which of the optional fields (those that some family lacks) its config.json has.
      defaults: defaults of transformers for missing keys, where they differ from those of `DecoderConfig`.
      qkv_bias: whether queries, keys and values always have biases.
      qk_norm: whether queries and keys are normalized.
      window_switch: whether `sliding_window` takes effect only if `use_sliding_window` is true.
      is_gemma: whether embeddings are scaled, the outputs of attention and MLP normalized, and 1 is added to the scales
        of norms.
    """

    architecture: str
    fields: tuple[str, ...]
    defaults: Mapping[str, Any]
    qkv_bias: bool = False
    qk_norm: bool = False
    window_switch: bool = False
    is_gemma: bool = False


_QWEN_DEFAULTS = {
    "vocab_size": 151936,
    "intermediate_size": 22016,
    "max_position_embeddings": 32768,
    "num_key_value_heads": 32,
}
_LLAMA_DEFAULTS = {"bos_token_id": 1, "eos_token_id": 2}
FAMILIES = {
    "llama": DecoderFamily("LlamaForCausalLM", ("attention_bias", "mlp_bias", "head_dim"), _LLAMA_DEFAULTS),
    "qwen2": DecoderFamily("Qwen2ForCausalLM", ("sliding_window",), _QWEN_DEFAULTS, qkv_bias=True, window_switch=True),
    "qwen3": DecoderFamily(
        "Qwen3ForCausalLM",
        ("attention_bias", "head_dim", "sliding_window"),
        {**_QWEN_DEFAULTS, "head_dim": 128},
        qk_norm=True,
        window_switch=True,
    ),
    "mistral": DecoderFamily(
        "MistralForCausalLM",
        ("head_dim", "sliding_window"),
        {
            **_LLAMA_DEFAULTS,
            "intermediate_size": 14336,
            "num_key_value_heads": 8,
            "max_position_embeddings": 4096 * 32,
            "sliding_window": 4096,
        },
    ),
    "smollm3": DecoderFamily(
        "SmolLM3ForCausalLM",
        ("attention_bias", "mlp_bias", "sliding_window", "no_rope_layer_interval"),
        {
            "vocab_size": 128256,
            "hidden_size": 2048,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "num_key_value_heads": 4,
            "max_position_embeddings": 32768,
            "rope_theta": 2_000_000.0,
            "tie_word_embeddings": True,
            "no_rope_layer_interval": 4,
            "bos_token_id": 128000,
            "eos_token_id": 128001,
            "pad_token_id": 128004,
        },
        window_switch=True,
    ),
    "gemma3_text": DecoderFamily(
        "Gemma3ForCausalLM",
        (
            *("attention_bias", "head_dim", "query_pre_attn_scalar"),
            *("sliding_window", "sliding_window_pattern", "rope_local_base_freq"),
        ),
        {
            "vocab_size": 262208,
            "hidden_size": 2304,
            "intermediate_size": 9216,
            "num_hidden_layers": 26,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "hidden_activation": "gelu_pytorch_tanh",
            "max_position_embeddings": 131072,
            "query_pre_attn_scalar": 256,
            "sliding_window": 4096,
            "sliding_window_pattern": 6,
            "rope_theta": 1_000_000.0,
            "rope_local_base_freq": 10_000.0,
            "tie_word_embeddings": True,
            "bos_token_id": 2,
            "eos_token_id": 1,
            "pad_token_id": 0,
        },
        qk_norm=True,
        is_gemma=True,
    ),
}
