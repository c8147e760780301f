"""Short names of models and their repositories on the Hugging Face Hub.

The configs of the papers take short names. A short name is the name of a preset in models/registry.py, followed by a
suffix for instruction-tuned and base variants. The tables are data only, so that configs can read them without loading
JAX.
"""

from collections.abc import Mapping

_T5_SIZES = ("small", "base", "large")
_T5_GATED_SIZES = (*_T5_SIZES, "xl", "xxl")
_SMOLLM2_SIZES, _QWEN2_5_SIZES, _QWEN3_SIZES = ("135M", "360M", "1.7B"), ("0.5B", "1.5B", "7B"), ("0.6B", "1.7B")
_OPT_SIZES = ("125m", "350m", "1.3b", "2.7b", "6.7b", "13b", "30b", "66b")

HUB_NAMES: Mapping[str, str] = {
    **{f"opt-{size}": f"facebook/opt-{size}" for size in _OPT_SIZES},
    **{f"t5-{size}": f"google-t5/t5-{size}" for size in (*_T5_SIZES, "3b", "11b")},
    **{f"t5-v1.1-{size}": f"google/t5-v1_1-{size}" for size in _T5_GATED_SIZES},
    **{f"flan-t5-{size}": f"google/flan-t5-{size}" for size in _T5_GATED_SIZES},
    "tinyllama-1.1b": "TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T",
    "tinyllama-1.1b-chat": "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
    **{f"smollm2-{size.lower()}": f"HuggingFaceTB/SmolLM2-{size}" for size in _SMOLLM2_SIZES},
    **{f"smollm2-{size.lower()}-instruct": f"HuggingFaceTB/SmolLM2-{size}-Instruct" for size in _SMOLLM2_SIZES},
    "llama-3.2-1b": "meta-llama/Llama-3.2-1B",
    "llama-3.2-1b-instruct": "meta-llama/Llama-3.2-1B-Instruct",
    "llama-3.1-8b": "meta-llama/Llama-3.1-8B",
    "llama-3.1-70b": "meta-llama/Llama-3.1-70B",
    **{f"qwen2.5-{size.lower()}": f"Qwen/Qwen2.5-{size}" for size in _QWEN2_5_SIZES},
    **{f"qwen2.5-{size.lower()}-instruct": f"Qwen/Qwen2.5-{size}-Instruct" for size in _QWEN2_5_SIZES},
    **{f"qwen3-{size.lower()}": f"Qwen/Qwen3-{size}" for size in _QWEN3_SIZES},
    **{f"qwen3-{size.lower()}-base": f"Qwen/Qwen3-{size}-Base" for size in _QWEN3_SIZES},
    "gemma-3-270m": "google/gemma-3-270m",
    "gemma-3-270m-it": "google/gemma-3-270m-it",
    "gemma-3-1b": "google/gemma-3-1b-pt",
    "gemma-3-1b-it": "google/gemma-3-1b-it",
    "smollm3-3b": "HuggingFaceTB/SmolLM3-3B",
    "smollm3-3b-base": "HuggingFaceTB/SmolLM3-3B-Base",
    "mistral-7b": "mistralai/Mistral-7B-v0.3",
}

_CHAT_VARIANTS, _BASE_VARIANT = ("-instruct", "-chat", "-it"), "-base"  # suffixes of short names
# Instruction-tuned models, which are prompted with the chat template of their tokenizer.
CHAT_MODELS = frozenset(
    name for name in HUB_NAMES if name.endswith(_CHAT_VARIANTS) or f"{name}{_BASE_VARIANT}" in HUB_NAMES
)
_SHORT_NAMES = {repository: name for name, repository in HUB_NAMES.items()}


def short_name(name: str) -> str:
    """Returns the short name of a repository, OWNER/NAME or OWNER/NAME@REVISION.

    A name or path without a short name is reduced to its last part.
    """
    return _SHORT_NAMES.get(name.partition("@")[0], name.rpartition("/")[2])


def preset_name(name: str) -> str:
    """Returns the name of the preset with a model's architecture: its short name without the suffix of a variant."""
    name = short_name(name)
    stems = (name.removesuffix(variant) for variant in (*_CHAT_VARIANTS, _BASE_VARIANT) if name.endswith(variant))
    return next((stem for stem in stems if stem in HUB_NAMES), name)  # the suffix of "t5-base" is its size
