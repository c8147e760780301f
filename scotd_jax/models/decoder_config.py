"""Config of the modern decoder family: Llama 2 and 3, Qwen 2, 2.5 and 3, and Mistral.

The families differ in the biases of their projections and in the normalization of queries and keys; `FAMILIES` and
two flags determine both. Any other feature in a config.json is refused: a model that is computed almost correctly
generates text that is almost correct, so nobody would notice the error.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from scotd_jax.errors import InputError
from scotd_jax.models import rope
from scotd_jax.models.hf import config_fields

ACTIVATIONS = ("silu", "gelu", "gelu_pytorch_tanh")


class DecoderFamily(NamedTuple):
    """Hugging Face's conventions for one model type.

    Attributes:
      architecture: the class in transformers.
      fields: the fields of config.json that not every family has.
      defaults: defaults of transformers for missing keys, where they differ from those of `DecoderConfig`.
      qkv_bias: whether queries, keys and values always have biases.
      qk_norm: whether queries and keys are normalized.
      window_switch: whether `sliding_window` counts only if `use_sliding_window` is true.
    """

    architecture: str
    fields: tuple[str, ...]
    defaults: Mapping[str, Any]
    qkv_bias: bool = False
    qk_norm: bool = False
    window_switch: bool = False


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
}
_FAMILY_FIELDS = {name for family in FAMILIES.values() for name in family.fields}
# Other values would change weights or layers in ways that no field of `DecoderConfig` describes.
_REQUIRED = {"quantization_config": None, "is_encoder_decoder": False, "add_cross_attention": False}


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """Fields as in Hugging Face's config.json; rotary positions as in transformers 4.

    Raises:
      InputError: on values that contradict each other or the model type.
    """

    model_type: str = "llama"
    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = None  # None: num_attention_heads
    head_dim: int | None = None  # None: hidden_size / num_attention_heads
    hidden_act: str = "silu"
    max_position_embeddings: int = 2048
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = False
    attention_bias: bool = False  # whether q, k, v and o have biases; in Qwen 2 q, k and v always do
    mlp_bias: bool = False
    sliding_window: int | None = None  # tokens that a token attends to, itself included; None: all
    rope_theta: float = 10000.0
    rope_scaling: rope.RopeScaling | None = None
    bos_token_id: int | None = None
    eos_token_id: int | tuple | None = None
    pad_token_id: int | None = None

    def __post_init__(self):
        if self.model_type not in FAMILIES:
            raise InputError(f"config.json: model_type is {self.model_type!r}; only {', '.join(FAMILIES)} are known")
        if self.hidden_act not in ACTIVATIONS:
            raise InputError(
                f"config.json: hidden_act is {self.hidden_act!r}; only {', '.join(ACTIVATIONS)} are supported"
            )
        others = _FAMILY_FIELDS - set(FAMILIES[self.model_type].fields)
        for name, default in sorted((f.name, f.default) for f in dataclasses.fields(self) if f.name in others):
            if getattr(self, name) != default:
                raise InputError(f"config.json: {name} is {getattr(self, name)!r}; {self.model_type} has no such field")
        if self.head_dim is None and self.hidden_size % self.num_attention_heads:
            raise InputError(
                f"config.json: hidden_size {self.hidden_size} is not a multiple of num_attention_heads "
                f"{self.num_attention_heads}; change one of them or set head_dim"
            )
        if self.num_attention_heads % self.key_heads:
            raise InputError(
                f"config.json: num_attention_heads {self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads {self.key_heads}; change one of them"
            )
        if self.head_width % 2:
            raise InputError(f"config.json: head_dim {self.head_width} is odd; rotary positions rotate pairs")
        if self.sliding_window is not None and self.sliding_window < self.max_position_embeddings:
            raise InputError(
                f"config.json: sliding_window {self.sliding_window} is less than max_position_embeddings "
                f"{self.max_position_embeddings}; only sequences that fit into the window are supported"
            )

    @property
    def kind(self) -> str:
        return "decoder"

    @property
    def start_token(self) -> int | None:
        """None: the first input of a response is the last token of its prompt."""
        return None

    @property
    def key_heads(self) -> int:
        return self.num_attention_heads if self.num_key_value_heads is None else self.num_key_value_heads

    @property
    def head_width(self) -> int:
        return self.hidden_size // self.num_attention_heads if self.head_dim is None else self.head_dim

    @property
    def qkv_bias(self) -> bool:
        return self.attention_bias or FAMILIES[self.model_type].qkv_bias

    @property
    def qk_norm(self) -> bool:
        return FAMILIES[self.model_type].qk_norm

    @property
    def cache_shape(self) -> tuple[int, int, int]:
        """Number of layers, of key heads, and head width."""
        return self.num_hidden_layers, self.key_heads, self.head_width

    @classmethod
    def from_hf(cls, values: Mapping[str, Any]) -> "DecoderConfig":
        """Reads a config.json.

        A sliding window masks nothing in sequences up to its width. So a window shorter than `max_position_embeddings`
        replaces it: sampling and training refuse longer sequences.

        Raises:
          InputError: on an unsupported architecture.
        """
        kind = values.get("model_type", "llama")
        values = {**(FAMILIES[kind].defaults if kind in FAMILIES else {}), **values}
        for layer in values.get("layer_types") or ():
            if layer not in ("full_attention", "sliding_attention"):
                raise InputError(f"config.json: layer_types has {layer!r}; only full_attention is supported")
        if kind in FAMILIES and FAMILIES[kind].window_switch and not values.get("use_sliding_window", False):
            values["sliding_window"] = None
        if isinstance(values.get("eos_token_id"), list):
            values["eos_token_id"] = tuple(values["eos_token_id"])
        theta, scaling = rope.from_hf(values)
        values |= {"rope_theta": theta, "rope_scaling": scaling}
        window, positions = values.get("sliding_window"), values.get("max_position_embeddings")
        if isinstance(window, int) and isinstance(positions, int):
            values["max_position_embeddings"] = min(window, positions)
        return config_fields.read(cls, values, _REQUIRED, {})

    def to_hf(self) -> dict[str, Any]:
        family = FAMILIES[self.model_type]
        fields = dataclasses.asdict(self)
        values = {name: value for name, value in fields.items() if name not in _FAMILY_FIELDS or name in family.fields}
        values["num_key_value_heads"] = self.key_heads
        if "head_dim" in family.fields:
            values["head_dim"] = self.head_width
        if family.window_switch:
            values["use_sliding_window"] = self.sliding_window is not None
        if isinstance(self.eos_token_id, tuple):
            values["eos_token_id"] = list(self.eos_token_id)
        values |= rope.to_hf(self.rope_theta, self.rope_scaling)
        return {**values, "architectures": [family.architecture]}
