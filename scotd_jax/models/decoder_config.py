"""Config of the modern decoder family: Llama 2 and 3, SmolLM 2 and 3, Qwen 2, 2.5 and 3, Mistral, and Gemma 3 (text).

The families differ in biases, norms and the rotary positions of their layers; `FAMILIES` and a few fields determine
these. Any other feature in a config.json is refused: a model that is computed almost correctly generates text that is
almost correct, so nobody would notice the error.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from scotd_jax.errors import InputError
from scotd_jax.models import rope
from scotd_jax.models.decoder_families import FAMILIES
from scotd_jax.models.hf import config_fields

ACTIVATIONS = ("silu", "gelu", "gelu_pytorch_tanh")
_GEMMA_NAMES = {"hidden_act": "hidden_activation"}  # field: its name in config.json
_FAMILY_FIELDS = {name for family in FAMILIES.values() for name in family.fields}
# Other values would change weights or layers in ways that no field of `DecoderConfig` describes.
_REQUIRED = {
    "quantization_config": None,
    "is_encoder_decoder": False,
    "add_cross_attention": False,
    "final_logit_softcapping": None,
    "attn_logit_softcapping": None,
    "use_bidirectional_attention": False,
}


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
    sliding_window_pattern: int | None = None  # layers n, 2n, ... have no window; None: all layers are alike
    rope_local_base_freq: float | None = None  # theta of the layers with a window, if only some have one
    query_pre_attn_scalar: int | None = None  # scores are divided by its square root; None: the head width
    no_rope_layer_interval: int | None = None  # of SmolLM 3: layers n, 2n, ... have no rotary positions
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
        if (self.sliding_window_pattern is None) != (self.rope_local_base_freq is None):
            raise InputError(
                f"config.json: sliding_window_pattern is {self.sliding_window_pattern!r} and rope_local_base_freq "
                f"{self.rope_local_base_freq!r}; set both"
            )
        for name in ("sliding_window_pattern", "no_rope_layer_interval"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise InputError(f"config.json: {name} is {getattr(self, name)}; expected at least 1")
        if self.sliding_window_pattern is not None:
            if self.sliding_window is None:
                raise InputError("config.json: sliding_window is None; layers of sliding_window_pattern need one")
        elif self.sliding_window is not None and self.sliding_window < self.max_position_embeddings:
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
    def post_norms(self) -> bool:
        """Whether the outputs of attention and MLP are normalized."""
        return FAMILIES[self.model_type].is_gemma

    @property
    def scales_embeddings(self) -> bool:
        """Whether embeddings are multiplied by the square root of their width."""
        return FAMILIES[self.model_type].is_gemma

    @property
    def norm_options(self) -> dict[str, float]:
        return {"eps": self.rms_norm_eps, "offset": 1.0 if FAMILIES[self.model_type].is_gemma else 0.0}

    @property
    def attention_scale(self) -> float:
        return (self.query_pre_attn_scalar or self.head_width) ** -0.5

    @property
    def ropes(self) -> tuple[tuple[float | None, rope.RopeScaling | None], ...]:
        """Theta and scaling of the rotary positions that layers use; theta None: no rotary positions."""
        ropes: list[tuple[float | None, rope.RopeScaling | None]] = [(self.rope_theta, self.rope_scaling)]
        if self.sliding_window_pattern is not None:
            ropes.append((self.rope_local_base_freq, None))
        if self.no_rope_layer_interval is not None:
            ropes.append((None, None))
        return tuple(ropes)

    @property
    def layer_kinds(self) -> tuple[int, ...]:
        """Index into `ropes` of every layer; in Gemma 3, 1 for layers with a sliding window."""
        layers = range(1, self.num_hidden_layers + 1)
        if self.sliding_window_pattern is not None:
            return tuple(0 if i % self.sliding_window_pattern == 0 else 1 for i in layers)
        interval = self.no_rope_layer_interval
        return tuple(0 if interval is None or i % interval else 1 for i in layers)

    @property
    def cache_shape(self) -> tuple[int, int, int]:
        """Number of layers, of key heads, and head width."""
        return self.num_hidden_layers, self.key_heads, self.head_width

    @classmethod
    def from_hf(cls, values: Mapping[str, Any]) -> "DecoderConfig":
        """Reads a config.json.

        A sliding window masks nothing in sequences up to its width. So if all layers have a window, the config's
        `max_position_embeddings` is reduced to its width: sampling and training refuse longer sequences.

        Raises:
          InputError: on an unsupported architecture.
        """
        kind = values.get("model_type", "llama")
        values = {**(FAMILIES[kind].defaults if kind in FAMILIES else {}), **values}
        is_gemma = kind in FAMILIES and FAMILIES[kind].is_gemma
        if is_gemma:
            values |= _gemma_layers(values)
        if kind == "smollm3":
            values["no_rope_layer_interval"] = _interval(values, "no_rope_layers", (0, 1), "no_rope_layer_interval")
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
        if isinstance(window, int) and isinstance(positions, int) and not is_gemma:
            values["max_position_embeddings"] = min(window, positions)
        return config_fields.read(cls, values, _REQUIRED, _GEMMA_NAMES if is_gemma else {})

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
        if self.no_rope_layer_interval is not None:
            values["no_rope_layers"] = [1 - index for index in self.layer_kinds]
        if family.is_gemma:
            values["hidden_activation"] = values.pop("hidden_act")
            values["layer_types"] = [("full_attention", "sliding_attention")[index] for index in self.layer_kinds]
            local = {"rope_type": "default", "rope_theta": self.rope_local_base_freq}
            values["rope_parameters"] = {"full_attention": values["rope_parameters"], "sliding_attention": local}
        return {**values, "architectures": [family.architecture]}


def _gemma_layers(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of `DecoderConfig` that describe Gemma 3's two kinds of layers.

    They are the interval of layers without a sliding window, theta of the layers with one, and the `rope_parameters` of
    the layers without one.
    """
    pattern = {"sliding_window_pattern": values.get("_sliding_window_pattern", values["sliding_window_pattern"])}
    kinds = ("full_attention", "sliding_attention")
    fields: dict[str, Any] = {
        "sliding_window_pattern": _interval({**values, **pattern}, "layer_types", kinds, "sliding_window_pattern")
    }
    found = values.get("rope_parameters")
    if not isinstance(found, Mapping) or not found.keys() & set(kinds):
        return fields
    local = found.get("sliding_attention") or {}
    if not isinstance(local, Mapping) or local.get("rope_type", "default") != "default":
        raise InputError(f"config.json: rope_parameters.sliding_attention is {local!r}; only type default is supported")
    fields["rope_local_base_freq"] = local.get("rope_theta", values["rope_local_base_freq"])
    return fields | {"rope_parameters": found.get("full_attention")}


def _interval(values: Mapping[str, Any], name: str, kinds: tuple[Any, Any], interval: str) -> Any:
    """Returns the interval n such that layers n, 2n, ... are of kind `kinds[0]` and all others of kind `kinds[1]`.

    Args:
      values: the config.json.
      name: key of the list with the kind of every layer.
      kinds: the two kinds, as the list names them.
      interval: key of the interval itself, used if there is no list or if no layer is of kind `kinds[0]`.

    Raises:
      InputError: if the kinds of the layers do not follow that pattern.
    """
    found, layers = values.get(name), values.get("num_hidden_layers")
    if not isinstance(found, list) or not isinstance(layers, int) or not found:
        return values.get(interval)
    n = found.index(kinds[0]) + 1 if kinds[0] in found[:layers] else max(values.get(interval) or 0, layers + 1)
    if found[:layers] != [kinds[0] if i % n == 0 else kinds[1] for i in range(1, layers + 1)]:
        raise InputError(f"config.json: {name} is {found}; only {kinds[0]!r} at every n-th layer is supported")
    return n
