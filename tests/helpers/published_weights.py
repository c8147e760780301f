"""Makes the folders in tests/models/hf/published: tiny random models in every format in which models were published.

The last version of transformers with Flax writes them; then version 5 adds model.safetensors with the same weights.
Each version is installed in a separate environment, with the CPU build of PyTorch:

    pip install transformers==4.57.6 torch jax==0.4.30 jaxlib==0.4.30 flax==0.8.5
    python tests/helpers/published_weights.py
    pip install "transformers>=5.17" torch
    python tests/helpers/published_weights.py

Peculiarities of published files that these versions no longer write are added: T5's unused position bias, Llama's
rotary frequencies, and the file format of PyTorch before 1.6.
"""

import pathlib
import shutil
from typing import Any

import torch
import transformers

FOLDER = pathlib.Path(__file__).parents[1] / "models/hf/published"
_T5 = {"vocab_size": 12, "d_model": 8, "d_kv": 3, "d_ff": 10, "num_layers": 1, "num_decoder_layers": 2, "num_heads": 2}
_T5 |= {"relative_attention_num_buckets": 6}
_OPT = {"vocab_size": 12, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 10}
_OPT |= {"max_position_embeddings": 6, "word_embed_proj_dim": 8}
_LLAMA = {"vocab_size": 12, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 10}
_LLAMA |= {"num_key_value_heads": 1, "max_position_embeddings": 8}

# Family -> model class, config class, values of the config, dtype.
MODELS: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "t5-v1.0": ("T5ForConditionalGeneration", "T5Config", _T5, "float32"),
    "t5-v1.1": (
        "T5ForConditionalGeneration",
        "T5Config",
        {**_T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
        "bfloat16",
    ),
    "opt": ("OPTForCausalLM", "OPTConfig", _OPT, "float16"),
    # Saved without the language-model head, like the published OPT-350M: no tensor name begins with "model.".
    "opt-350m": (
        "OPTModel",
        "OPTConfig",
        {**_OPT, "num_hidden_layers": 1, "word_embed_proj_dim": 4, "do_layer_norm_before": False},
        "float16",
    ),
    "llama": ("LlamaForCausalLM", "LlamaConfig", _LLAMA, "float16"),
}
_UNUSED = {
    "t5-v1.0": {"decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight": torch.ones(6, 2)},
    "llama": {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2)},
}


def write_old_formats(name: str) -> None:
    """Writes pytorch_model.bin and flax_model.msgpack, and both in several files in the subfolder `sharded`."""
    architecture, config_class, values, dtype = MODELS[name]
    folder = FOLDER / name
    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(list(MODELS).index(name))
    model = getattr(transformers, architecture)(getattr(transformers, config_class)(**values))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    model.to(getattr(torch, dtype)).save_pretrained(folder, safe_serialization=False)
    size = (folder / "pytorch_model.bin").stat().st_size
    model.save_pretrained(folder / "sharded", safe_serialization=False, max_shard_size=size // 10)
    flax_model = getattr(transformers, f"Flax{architecture}").from_pretrained(folder, from_pt=True)
    cast = {"float16": flax_model.to_fp16, "bfloat16": flax_model.to_bf16}.get(dtype, lambda params: params)
    params = cast(flax_model.params)
    flax_model.save_pretrained(folder, params=params)
    flax_model.save_pretrained(folder / "sharded", params=params, max_shard_size=size // 10)
    for file in [*folder.rglob("generation_config.json"), folder / "sharded" / "config.json"]:
        file.unlink()
    if name in _UNUSED:
        state = torch.load(folder / "pytorch_model.bin", weights_only=True) | _UNUSED[name]
        torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=name != "t5-v1.0")


def write_safetensors(name: str) -> None:
    """Writes model.safetensors from pytorch_model.bin."""
    architecture, _, _, dtype = MODELS[name]
    model = getattr(transformers, architecture).from_pretrained(FOLDER / name, dtype=getattr(torch, dtype))
    model.save_pretrained(FOLDER / "scratch")
    (FOLDER / "scratch" / "model.safetensors").rename(FOLDER / name / "model.safetensors")
    shutil.rmtree(FOLDER / "scratch")


if __name__ == "__main__":
    for family in MODELS:
        if transformers.__version__.startswith("4."):
            write_old_formats(family)
        else:
            write_safetensors(family)
