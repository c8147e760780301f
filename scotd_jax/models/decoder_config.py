"""The config of the modern decoder family: what Llama 2 and 3, Qwen 2, 2.5 and 3, and Mistral have in common.

They differ in which projections have a bias and in whether queries and keys are normalized, which the model type and
two flags decide. Whatever else a config.json asks for stops the import: a model that is computed almost right says
almost sense, which nobody would notice.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from scotd_jax.errors import InputError
from scotd_jax.models import rope
from scotd_jax.models.hf import config_fields

ACTIVATIONS = ("silu", "gelu", "gelu_pytorch_tanh")


class Family(NamedTuple):
    """A model type: its class in transformers, which of our fields its config.json has besides the common ones, and
    what transformers takes for keys that are left out where that differs from our defaults."""

    architecture: str
    own: tuple[str, ...]
    assumed: Mapping[str, Any]


_QWEN = {"vocab_size": 151936, "intermediate_size": 22016, "max_position_embeddings": 32768, "num_key_value_heads": 32}
_LLAMA_TOKENS = {"bos_token_id": 1, "eos_token_id": 2}
FAMILIES = {
    "llama": Family("LlamaForCausalLM", ("attention_bias", "mlp_bias", "head_dim"), _LLAMA_TOKENS),
    "qwen2": Family("Qwen2ForCausalLM", ("sliding_window",), _QWEN),
    "qwen3": Family("Qwen3ForCausalLM", ("attention_bias", "head_dim", "sliding_window"), {**_QWEN, "head_dim": 128}),
    "mistral": Family(
        "MistralForCausalLM",
        ("head_dim", "sliding_window"),
        {
            **_LLAMA_TOKENS,
            "intermediate_size": 14336,
            "num_key_value_heads": 8,
            "max_position_embeddings": 4096 * 32,
            "sliding_window": 4096,
        },
    ),
}
_OWN = {name for family in FAMILIES.values() for name in family.own}
# Present only where weights or layers are not what the other fields say.
_REQUIRED = {"quantization_config": None, "is_encoder_decoder": False, "add_cross_attention": False}


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """Fields as in Hugging Face's config.json, rotary positions as in that of earlier versions.

    Raises InputError on values that contradict each other or the model type.
    """

    model_type: str = "llama"
    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = None  # None is num_attention_heads
    head_dim: int | None = None  # None is hidden_size / num_attention_heads
    hidden_act: str = "silu"
    max_position_embeddings: int = 2048
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = False
    attention_bias: bool = False  # of all four projections; Qwen 2 has that of three whatever this says
    mlp_bias: bool = False
    sliding_window: int | None = None  # tokens that one may look back on, itself included; None is all
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
        for name in sorted(_OWN - {*FAMILIES[self.model_type].own}):
            if getattr(self, name):
                raise InputError(f"config.json: {name} is {getattr(self, name)!r}; a {self.model_type} has none")
        if self.head_dim is None and self.hidden_size % self.num_attention_heads:
            raise InputError(
                f"config.json: hidden_size {self.hidden_size} is not a multiple of num_attention_heads "
                f"{self.num_attention_heads}; change one of them or give head_dim"
            )
        if self.num_attention_heads % self.key_heads:
            raise InputError(
                f"config.json: num_attention_heads {self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads {self.key_heads}; change one of them"
            )
        if self.head_width % 2:
            raise InputError(f"config.json: head_dim {self.head_width} is odd; rotary positions turn pairs")
        if self.sliding_window is not None and self.sliding_window < self.max_position_embeddings:
            raise InputError(
                f"config.json: sliding_window {self.sliding_window} is less than max_position_embeddings "
                f"{self.max_position_embeddings}; only texts that fit into the window are supported"
            )

    @property
    def kind(self) -> str:
        return "decoder"

    @property
    def start_token(self) -> int | None:
        """None: responses start from the last token of their prompt."""
        return None

    @property
    def key_heads(self) -> int:
        return self.num_attention_heads if self.num_key_value_heads is None else self.num_key_value_heads

    @property
    def head_width(self) -> int:
        return self.hidden_size // self.num_attention_heads if self.head_dim is None else self.head_dim

    @property
    def qkv_bias(self) -> bool:
        return self.attention_bias or self.model_type == "qwen2"

    @property
    def qk_norm(self) -> bool:
        return self.model_type == "qwen3"

    @property
    def cache_shape(self) -> tuple[int, int, int]:
        """Layers, key heads, head width."""
        return self.num_hidden_layers, self.key_heads, self.head_width

    @classmethod
    def from_hf(cls, values: Mapping[str, Any]) -> "DecoderConfig":
        """Raises InputError on an architecture that differs from those above.

        A window shorter than the model's positions limits the positions: up to its width it hides nothing, and whoever
        samples or trains refuses longer texts by `max_position_embeddings`.
        """
        kind = values.get("model_type", "llama")
        values = {**(FAMILIES[kind].assumed if kind in FAMILIES else {}), **values}
        for layer in values.get("layer_types") or ():
            if layer not in ("full_attention", "sliding_attention"):
                raise InputError(f"config.json: layer_types has {layer!r}; only full_attention is supported")
        if kind.startswith("qwen") and not values.get("use_sliding_window", False):
            values["sliding_window"] = None
        if isinstance(values.get("eos_token_id"), list):
            values["eos_token_id"] = tuple(values["eos_token_id"])
        theta, scaling = rope.from_hf(values)
        values |= {"rope_theta": theta, "rope_scaling": scaling}
        window, positions = values.get("sliding_window"), values.get("max_position_embeddings")
        if type(window) is type(positions) is int:
            values["max_position_embeddings"] = min(window, positions)
        return config_fields.read(cls, values, _REQUIRED, {})

    def to_hf(self) -> dict[str, Any]:
        family = FAMILIES[self.model_type]
        fields = dataclasses.asdict(self)
        kept = {name: value for name, value in fields.items() if name not in _OWN or name in family.own}
        kept["num_key_value_heads"] = self.key_heads
        if "head_dim" in family.own:
            kept["head_dim"] = self.head_width
        if self.model_type.startswith("qwen"):
            kept["use_sliding_window"] = self.sliding_window is not None
        if isinstance(self.eos_token_id, tuple):
            kept["eos_token_id"] = list(self.eos_token_id)
        kept |= rope.to_hf(self.rope_theta, self.rope_scaling)
        return {**kept, "architectures": [family.architecture]}
