"""Short names of models and their repositories on the Hugging Face Hub.

A short name is a preset of models/registry.py and a name that the configs of the papers take. The table is data only,
so that configs can read it without loading JAX.
"""

from collections.abc import Mapping

_T5_SIZES = ("small", "base", "large")
_T5_GATED_SIZES = (*_T5_SIZES, "xl", "xxl")
_OPT_SIZES = ("125m", "350m", "1.3b", "2.7b", "6.7b", "13b", "30b", "66b")

HUB_NAMES: Mapping[str, str] = {
    **{f"opt-{size}": f"facebook/opt-{size}" for size in _OPT_SIZES},
    **{f"t5-{size}": f"google-t5/t5-{size}" for size in (*_T5_SIZES, "3b", "11b")},
    **{f"t5-v1.1-{size}": f"google/t5-v1_1-{size}" for size in _T5_GATED_SIZES},
    **{f"flan-t5-{size}": f"google/flan-t5-{size}" for size in _T5_GATED_SIZES},
    "llama-3.2-1b": "meta-llama/Llama-3.2-1B",
    "llama-3.1-8b": "meta-llama/Llama-3.1-8B",
    "llama-3.1-70b": "meta-llama/Llama-3.1-70B",
    "tinyllama-1.1b": "TinyLlama/TinyLlama_v1.1",
    "smollm2-135m": "HuggingFaceTB/SmolLM2-135M",
    "smollm2-360m": "HuggingFaceTB/SmolLM2-360M",
    "smollm2-1.7b": "HuggingFaceTB/SmolLM2-1.7B",
    "qwen2.5-0.5b": "Qwen/Qwen2.5-0.5B",
    "qwen2.5-1.5b": "Qwen/Qwen2.5-1.5B",
    "qwen2.5-7b": "Qwen/Qwen2.5-7B",
    "qwen3-0.6b": "Qwen/Qwen3-0.6B",
    "qwen3-1.7b": "Qwen/Qwen3-1.7B",
    "mistral-7b": "mistralai/Mistral-7B-v0.3",
}
