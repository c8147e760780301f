"""LoRA adapters that are merged into exported weights, compared in PyTorch with adapters beside the base weights."""

import importlib.util
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from scotd_jax.config import LoRA
from scotd_jax.models.hf import weight_map
from scotd_jax.models.hf.export import export_pretrained
from scotd_jax.training.trainable import combine, partition
from tests.helpers import tolerances
from tests.helpers.hf_cases import CONFIGS, random_params, words

pytestmark = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")

LORA = LoRA(rank=2, alpha=6.0)
TOKENS = [[5, 9, 8, 7, 30, 12], [3, 4, 5, 6, 7, 8]]


def torch_logits(model: Any) -> np.ndarray:
    import torch

    with torch.no_grad():
        return model(torch.tensor(TOKENS)).logits.numpy()


def load_torch(folder: Path) -> Any:
    import transformers

    return transformers.AutoModelForCausalLM.from_pretrained(folder).eval()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["opt", "llama", "qwen2", "qwen3", "smollm3", "gemma3"])
def test_merged_adapters_equal_adapters_beside_the_base_model(name, tmp_path):
    """With a hook on every target, the base model in transformers adds alpha / rank * (x A) B to its output."""
    import torch

    config, base = CONFIGS[name], random_params(CONFIGS[name])
    trainable, frozen = partition(base, lora=LORA, key=jax.random.key(0))
    rng = np.random.default_rng(1)
    adapters = {
        key: np.array(leaf) if key.endswith("/A") else rng.normal(size=leaf.shape).astype(np.float32)
        for key, leaf in flatten_dict(trainable, sep="/").items()
    }
    export_pretrained(tmp_path / "base", config, base, words(), "")
    merged = combine(unflatten_dict(adapters, sep="/"), frozen)
    export_pretrained(tmp_path / "merged", config, merged, words(), "")
    found, reference = torch_logits(load_torch(tmp_path / "merged")), load_torch(tmp_path / "base")
    before = torch_logits(reference)
    for pair in weight_map.pairs(config):
        if f"{pair.ours}/A" in adapters:
            a, b = (torch.from_numpy(adapters.pop(f"{pair.ours}/{part}")) for part in "AB")
            module = reference.get_submodule(pair.theirs.removesuffix(".weight"))
            module.register_forward_hook(
                lambda module, inputs, output, a=a, b=b: output + LORA.alpha / LORA.rank * (inputs[0] @ a) @ b
            )
    assert not adapters, "every target is a linear layer there"
    expected = torch_logits(reference)
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerances.LOGITS * np.abs(expected).max())
    assert np.abs(before - expected).max() > 0.1 * np.abs(expected).max(), "otherwise the comparison proves nothing"
