"""Maps our parameter names to Hugging Face's: one table per model, used for import and export.

A rule maps one parameter, or with {i} one parameter of every layer, to a tensor. The tensor may be stored transposed:
PyTorch's linear layers are [out, in], our kernels [in, out]. A rule applies only if the model has the parameter, so
tied heads, projections and gates need no conditions here. A new kind of model needs one more table.
"""

import functools
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from scotd_jax.models import registry


class WeightRule(NamedTuple):
    """`ours` names a parameter, `theirs` its tensor, `copies` other tensors that may hold the same values."""

    ours: str
    theirs: str
    transpose: bool = False
    copies: tuple[str, ...] = ()


class WeightPair(NamedTuple):
    """A parameter with its shape, and its tensor, stored transposed if `transpose`."""

    ours: str
    shape: tuple[int, ...]
    theirs: str
    transpose: bool
    copies: tuple[str, ...]

    @property
    def stored_shape(self) -> tuple[int, ...]:
        return self.shape[::-1] if self.transpose else self.shape


def _norm(ours: str, theirs: str) -> tuple[WeightRule, WeightRule]:
    return WeightRule(f"{ours}/scale", f"{theirs}.weight"), WeightRule(f"{ours}/bias", f"{theirs}.bias")


def _linear(ours: str, theirs: str) -> tuple[WeightRule, WeightRule]:
    return WeightRule(f"{ours}/kernel", f"{theirs}.weight", transpose=True), WeightRule(
        f"{ours}/bias", f"{theirs}.bias"
    )


_OPT_LAYER = "model.decoder.layers.{i}"
OPT = (
    WeightRule("embed/tokens", "model.decoder.embed_tokens.weight", copies=("lm_head.weight",)),
    WeightRule("embed/positions", "model.decoder.embed_positions.weight"),
    *_linear("project_in", "model.decoder.project_in"),
    *_linear("project_out", "model.decoder.project_out"),
    *_norm("final_norm", "model.decoder.final_layer_norm"),
    *_linear("layers/{i}/attn/q", f"{_OPT_LAYER}.self_attn.q_proj"),
    *_linear("layers/{i}/attn/k", f"{_OPT_LAYER}.self_attn.k_proj"),
    *_linear("layers/{i}/attn/v", f"{_OPT_LAYER}.self_attn.v_proj"),
    *_linear("layers/{i}/attn/o", f"{_OPT_LAYER}.self_attn.out_proj"),
    *_norm("layers/{i}/attn_norm", f"{_OPT_LAYER}.self_attn_layer_norm"),
    *_linear("layers/{i}/mlp/up", f"{_OPT_LAYER}.fc1"),
    *_linear("layers/{i}/mlp/down", f"{_OPT_LAYER}.fc2"),
    *_norm("layers/{i}/mlp_norm", f"{_OPT_LAYER}.final_layer_norm"),
)


def _t5_stack(stack: str) -> tuple[WeightRule, ...]:
    """Returns the rules of the encoder or the decoder.

    Self-attention is sublayer 0 of a block; cross-attention, in the decoder, is sublayer 1; the MLP is the last.
    """
    ours, block = f"{stack}/layers/{{i}}", f"{stack}.block.{{i}}"
    attentions = [("attn", f"{block}.layer.0", "SelfAttention")]
    if stack == "decoder":
        attentions.append(("cross", f"{block}.layer.1", "EncDecAttention"))
    mlp = f"{block}.layer.{len(attentions)}"
    rules = [
        WeightRule(f"{stack}/rel_bias", f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"),
        WeightRule(f"{stack}/final_norm/scale", f"{stack}.final_layer_norm.weight"),
        WeightRule(f"{ours}/mlp_norm/scale", f"{mlp}.layer_norm.weight"),
        *(
            WeightRule(f"{ours}/mlp/{w}/kernel", f"{mlp}.DenseReluDense.{w}.weight", transpose=True)
            for w in ("wi", "wi_0", "wi_1", "wo")
        ),
    ]
    for name, sublayer, module in attentions:
        rules.append(WeightRule(f"{ours}/{name}_norm/scale", f"{sublayer}.layer_norm.weight"))
        rules.extend(
            WeightRule(f"{ours}/{name}/{w}/kernel", f"{sublayer}.{module}.{w}.weight", transpose=True) for w in "qkvo"
        )
    return tuple(rules)


T5 = (
    WeightRule(
        "embed/tokens",
        "shared.weight",
        copies=("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"),
    ),
    WeightRule("lm_head/kernel", "lm_head.weight"),
    *_t5_stack("encoder"),
    *_t5_stack("decoder"),
)

_DECODER_LAYER = "model.layers.{i}"
DECODER = (
    WeightRule("embed/tokens", "model.embed_tokens.weight", copies=("lm_head.weight",)),
    *(
        rule
        for name in "qkvo"
        for rule in _linear(f"layers/{{i}}/attn/{name}", f"{_DECODER_LAYER}.self_attn.{name}_proj")
    ),
    WeightRule("layers/{i}/attn/q_norm/scale", f"{_DECODER_LAYER}.self_attn.q_norm.weight"),
    WeightRule("layers/{i}/attn/k_norm/scale", f"{_DECODER_LAYER}.self_attn.k_norm.weight"),
    *(
        rule
        for name in ("gate", "up", "down")
        for rule in _linear(f"layers/{{i}}/mlp/{name}", f"{_DECODER_LAYER}.mlp.{name}_proj")
    ),
    WeightRule("layers/{i}/attn_norm/scale", f"{_DECODER_LAYER}.input_layernorm.weight"),
    WeightRule("layers/{i}/mlp_norm/scale", f"{_DECODER_LAYER}.post_attention_layernorm.weight"),
    WeightRule("final_norm/scale", "model.norm.weight"),
    WeightRule("lm_head/kernel", "lm_head.weight"),
)

# Gemma 3 uses Llama's name of the norm before the MLP for the one after attention.
GEMMA3 = (
    *(rule for rule in DECODER if rule.ours != "layers/{i}/mlp_norm/scale"),
    WeightRule("layers/{i}/attn_post_norm/scale", f"{_DECODER_LAYER}.post_attention_layernorm.weight"),
    WeightRule("layers/{i}/mlp_norm/scale", f"{_DECODER_LAYER}.pre_feedforward_layernorm.weight"),
    WeightRule("layers/{i}/mlp_post_norm/scale", f"{_DECODER_LAYER}.post_feedforward_layernorm.weight"),
)

RULES: Mapping[str, tuple[WeightRule, ...]] = {"opt": OPT, "t5": T5, "decoder": DECODER}

# Tensors that files of early releases contain but no model uses: a position bias in T5's first cross-attention, Llama
# 2's rotary frequencies, which follow from its config, and the format version of the program that trained OPT.
UNUSED: Mapping[str, str] = {
    "opt": r"model\.decoder\.version",
    "t5": r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",
    "decoder": r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",
}


def is_unused(kind: str, tensor: str) -> bool:
    """Whether files of this kind of model may contain the tensor although it belongs to no parameter."""
    return kind in UNUSED and re.fullmatch(UNUSED[kind], tensor) is not None


def pairs(config: registry.ModelConfig) -> list[WeightPair]:
    """Returns one pair per parameter of the model, in the order of the rules; the pairs of a rule in order of layers.

    Raises:
      RuntimeError: if the table does not name every parameter exactly once.
    """
    shapes = _shapes(config)
    found = [
        WeightPair(
            rule.ours.format(i=i), shapes[rule.ours.format(i=i)], rule.theirs.format(i=i), rule.transpose, rule.copies
        )
        for rule in (GEMMA3 if getattr(config, "post_norms", False) else RULES[config.kind])
        for i in (range(_num_layers(shapes)) if "{i}" in rule.ours else (0,))
        if rule.ours.format(i=i) in shapes
    ]
    if sorted(p.ours for p in found) != sorted(shapes):
        raise RuntimeError(
            f"weight map of {config.kind}: {sorted(set(shapes) ^ {p.ours for p in found})} not mapped once"
        )
    tensors = {pair.theirs for pair in found}
    return [pair._replace(copies=tuple(c for c in pair.copies if c not in tensors)) for pair in found]


def flatten(params: Any) -> dict[str, Any]:
    """Returns the leaves of a nested dict by name, such as "layers/0/attn/q/kernel"."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    return {"/".join(str(entry.key) for entry in path): leaf for path, leaf in leaves}


def nest(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`."""
    tree: dict[str, Any] = {}
    for name, leaf in leaves.items():
        *folders, last = name.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[last] = leaf
    return tree


@functools.lru_cache(maxsize=16)  # tracing a model of many layers takes seconds
def _shapes(config: registry.ModelConfig) -> Mapping[str, tuple[int, ...]]:
    return {name: leaf.shape for name, leaf in flatten(registry.build(config).abstract()).items()}


def _num_layers(shapes: Mapping[str, Any]) -> int:
    numbers = [int(part) for name in shapes for part in name.split("/") if part.isdigit()]
    return max(numbers, default=-1) + 1
