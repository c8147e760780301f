"""Logical axes of all parameters; distributed/sharding.py maps them to mesh axes."""

import re
from collections.abc import Mapping

Axes = tuple[str | tuple[str, int] | None, ...]  # (name, count): the axis has this many heads, which stay whole

# By kind of model: patterns of parameter paths with their axes; the first pattern that matches applies.
PARAM_AXES: dict[str, tuple[tuple[str, Axes], ...]] = {
    "opt": (
        (r"embed/tokens", ("vocab", "embed")),
        (r"embed/positions", (None, "embed")),
        (r"project_in/kernel", (None, "embed")),
        (r"project_out/kernel", ("embed", None)),
        (r".*/attn/[qkv]/kernel", ("embed", "heads")),
        (r".*/attn/[qkv]/bias", ("heads",)),
        (r".*/attn/o/kernel", ("heads", "embed")),
        (r".*/mlp/up/kernel", ("embed", "mlp")),
        (r".*/mlp/up/bias", ("mlp",)),
        (r".*/mlp/down/kernel", ("mlp", "embed")),
        (r".*/(bias|scale)", (None,)),
    ),
    "t5": (
        (r"embed/tokens", ("vocab", "embed")),
        (r"lm_head/kernel", ("vocab", "embed")),
        (r".*/rel_bias", (None, "heads")),
        (r".*/(attn|cross)/[qkv]/kernel", ("embed", "heads")),
        (r".*/(attn|cross)/o/kernel", ("heads", "embed")),
        (r".*/mlp/wi(_0|_1)?/kernel", ("embed", "mlp")),
        (r".*/mlp/wo/kernel", ("mlp", "embed")),
        (r".*/scale", (None,)),
    ),
    "decoder": (
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
    ),
}


def param_axes(kind: str, path: str, heads: Mapping[str, int]) -> Axes:
    """Returns the logical axes of one parameter.

    Args:
      kind: kind of the model.
      path: path of the parameter, such as "layers/0/attn/q/kernel".
      heads: number of query heads ("heads") and of key heads ("kv").
    """
    axes = next(axes for pattern, axes in PARAM_AXES[kind] if re.fullmatch(pattern, path))
    return tuple((name, heads[name]) if name in heads else name for name in axes)
