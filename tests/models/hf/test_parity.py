"""Comparison with PyTorch: logits, cached decoding, files and generated text of small random models of every kind."""

import importlib.util
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from scotd_jax import layout
from scotd_jax.models import registry
from scotd_jax.models.api import Precision
from scotd_jax.models.hf import weight_map
from scotd_jax.models.hf.export import export_pretrained
from scotd_jax.models.hf.loading import load_pretrained
from scotd_jax.models.hf.verification import ExportMismatch, verify_export
from scotd_jax.models.layers import logits
from tests.helpers import tolerances
from tests.helpers.hf_cases import ANY_TOKENIZER, CONFIGS, PROMPTS, random_params, words

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed"),
    pytest.mark.usefixtures("fast_compilation"),
]

QUESTIONS = [[5, 9, 8, 7, 30, 12], [20], [3, 4, 5, 6, 7, 8, 9, 10, 11]]
RESPONSES = [[[8, 3, 1], [9, 9, 9, 2, 1]], [[4, 1], [31, 8, 1]], [[6, 5, 4, 3, 2, 1], [1]]]  # G = 2


@pytest.fixture(scope="module", params=CONFIGS)
def case(request, tmp_path_factory):
    """Returns a model, its parameters, and the PyTorch model and folder from which they were loaded."""
    config = CONFIGS[request.param]
    reference = torch_model(config)
    folder = tmp_path_factory.mktemp("torch")
    reference.save_pretrained(folder)
    found, params = load_pretrained(folder)
    assert found.to_hf() == config.to_hf()
    return registry.build(found, Precision("float32")), params, reference, folder


def torch_model(config):
    """Returns a transformers model with random weights; by default biases would be zeros and norms ones."""
    import torch
    import transformers

    values = config.to_hf()
    kind = getattr(transformers, values["architectures"][0])
    model = kind(kind.config_class(**values)).eval()
    if config.kind == "t5" and not config.tie_word_embeddings:  # transformers 5 ties the weights of every new T5
        model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.lm_head.weight))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
            if name.endswith("norm.weight"):
                parameter.add_(1)
    return model


def padded_inputs(model):
    """Returns QUESTIONS and RESPONSES as padded arrays: prefixes, their mask, decoder inputs, their mask."""
    split = [layout.split_prompt(q, model.start_token) for q in QUESTIONS]
    prefix, mask = layout.pad_rows([p for p, _ in split], 12)
    inputs = [[start, *a[:-1]] for (_, start), group in zip(split, RESPONSES, strict=True) for a in group]
    tokens, real = layout.pad_rows(inputs, 7)
    return prefix, mask, tokens.reshape(3, 2, 7), real.reshape(3, 2, 7)


@pytest.mark.slow
def test_logits_match_pytorch(case):
    import torch

    model, params, reference, _ = case
    prefix, mask, tokens, real = padded_inputs(model)

    @jax.jit
    def forward(params):
        hidden, _ = model.extend(params, model.prefill(params, prefix, mask), tokens)
        return logits(hidden, model.unembedding(params), "float32")

    ours = np.asarray(forward(params))
    theirs = np.zeros_like(ours)
    rows = [(b, g) for b in range(3) for g in range(2)]
    with torch.no_grad():
        if model.start_token is None:
            texts = [QUESTIONS[b] + RESPONSES[b][g][:-1] for b, g in rows]
            ids, attention_mask = (torch.tensor(x).long() for x in layout.pad_rows(texts, 16))
            out = reference(input_ids=ids, attention_mask=attention_mask).logits.numpy()
            for (b, g), row in zip(rows, out, strict=True):
                begin = len(QUESTIONS[b]) - 1
                theirs[b, g] = row[begin : begin + 7]
        else:
            ids, attention_mask = (torch.tensor(x).long().repeat_interleave(2, 0) for x in (prefix, mask))
            inputs = torch.tensor(tokens.reshape(6, 7)).long()
            out = reference(input_ids=ids, attention_mask=attention_mask, decoder_input_ids=inputs).logits.numpy()
            theirs = out.reshape(theirs.shape)
    assert np.abs(ours - theirs)[real].max() <= tolerances.LOGITS * np.abs(theirs[real]).max()
    assert np.abs(theirs[real]).max() > 0.5  # otherwise the comparison would prove nothing


@pytest.mark.slow
def test_cached_decoding_matches_the_full_forward_pass(case):
    model, params, _, _ = case
    prefix, mask, tokens, real = padded_inputs(model)
    context = jax.jit(model.prefill)(params, prefix, mask)
    full, _ = jax.jit(model.extend)(params, context, tokens)
    cache, steps, extend = model.new_cache(3, 2, 0, 7), [], jax.jit(model.extend)
    for r in range(7):
        hidden, cache = extend(params, context, tokens[:, :, r : r + 1], cache)
        steps.append(np.asarray(hidden))
    error = np.abs(np.concatenate(steps, 2) - np.asarray(full))[real].max()
    assert error <= tolerances.FLOAT32 * np.abs(np.asarray(full)[real]).max()


def test_export_matches_save_pretrained(case, tmp_path):
    model, params, _, folder = case
    export_pretrained(tmp_path, model.config, params, words(), "")
    ours, theirs = load_file(tmp_path / "model.safetensors"), load_file(folder / "model.safetensors")
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].tobytes() == tensor.tobytes(), name
    ours, theirs = (json.loads((f / "config.json").read_text()) for f in (tmp_path, folder))
    ignored = {"bos_token_id", "tie_word_embeddings"}  # transformers 5 overwrites these for T5
    ignored |= {"rope_theta", "rope_scaling", "rope_local_base_freq"}  # written for transformers 4
    assert {k: v for k, v in ours.items() if k not in ignored} == {k: theirs[k] for k in ours if k not in ignored}


@pytest.mark.slow
@pytest.mark.parametrize("name", ANY_TOKENIZER)
def test_exported_folder_generates_the_same_text_in_pytorch(name, tmp_path, capfd):
    config, params = CONFIGS[name], random_params(CONFIGS[name])
    model = registry.build(config, Precision("bfloat16"))  # verification uses float32 whatever the compute dtype
    export_pretrained(tmp_path, config, params, words(), "", max_shard_size=4000)
    result = verify_export(tmp_path, model, params, words(), PROMPTS, max_new_tokens=12)
    assert result["logit_error"] <= tolerances.LOGITS
    assert (result["prompts"], result["ties"]) == (4, 0)
    assert result["tokens"] > 12  # otherwise too little was generated to compare
    assert capfd.readouterr() == ("", "")  # no warnings


@pytest.mark.slow
def test_half_precision_export_is_compared_with_the_stored_weights(tmp_path):
    config, params = CONFIGS["opt"], random_params(CONFIGS["opt"])
    model = registry.build(config)
    export_pretrained(tmp_path, config, params, words(), "", dtype="bfloat16")
    result = verify_export(tmp_path, model, params, words(), PROMPTS, dtype="bfloat16", max_new_tokens=12)
    assert result["logit_error"] <= tolerances.LOGITS
    with pytest.raises(ExportMismatch, match="parameter .*: the stored weights are not the model's"):
        verify_export(tmp_path, model, params, words(), PROMPTS)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["weights", "map", "start", "end", "tokenizer", "head"])
def test_wrong_export_is_detected(fault, tmp_path, monkeypatch):
    name = {"start": "t5-v1.0", "head": "t5-v1.1"}.get(fault, "opt")
    config, params = CONFIGS[name], random_params(CONFIGS[name])
    model, tokenizer = registry.build(config), words()
    export_pretrained(tmp_path, config, params, tokenizer, "")
    weights = tmp_path / "model.safetensors"
    if fault == "weights":
        tensors = load_file(weights)
        tensors["model.decoder.layers.1.fc2.bias"][3] += 1e-3
        save_file(tensors, weights, {"format": "pt"})
    if fault == "map":  # our loader reads it without an error, PyTorch computes other logits
        swapped = {"self_attn.q_proj": "self_attn.k_proj", "self_attn.k_proj": "self_attn.q_proj"}
        table = [
            r._replace(theirs=next((r.theirs.replace(a, b) for a, b in swapped.items() if a in r.theirs), r.theirs))
            for r in weight_map.OPT
        ]
        monkeypatch.setattr(weight_map, "RULES", {"opt": tuple(table)})
        export_pretrained(tmp_path, config, params, tokenizer, "")
    if fault in ("start", "end"):
        key, value = {"start": ("decoder_start_token_id", 9), "end": ("eos_token_id", None)}[fault]
        file = tmp_path / "generation_config.json"
        settings = json.loads(file.read_text())
        if fault == "end":  # an end token that is generated early stops PyTorch too soon
            value = second_greedy_token(tmp_path, tokenizer)
        file.write_text(json.dumps({**settings, key: value}))
    if fault == "tokenizer":
        type(tokenizer).train_word_level(["six . two one"]).save(tmp_path, "opt")
    if fault == "head":
        tensors = load_file(weights)
        del tensors["lm_head.weight"]
        save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(ExportMismatch):
        verify_export(tmp_path, model, params, tokenizer, PROMPTS, max_new_tokens=12)


@pytest.mark.slow
def test_exported_folder_stops_at_every_end_token(tmp_path):
    config, params = CONFIGS["opt"], random_params(CONFIGS["opt"])
    model = registry.build(config)
    export_pretrained(tmp_path, config, params, words(), "")
    tokenizer = type(words())(words()._fast, [second_greedy_token(tmp_path, words())])
    with pytest.raises(ExportMismatch, match="PyTorch generates"):  # it does not stop at the second end token
        verify_export(tmp_path, model, params, tokenizer, PROMPTS[:1], max_new_tokens=12)
    export_pretrained(tmp_path, config, params, tokenizer, "")
    assert verify_export(tmp_path, model, params, tokenizer, PROMPTS[:1], max_new_tokens=12)["tokens"] == 2


def second_greedy_token(folder, tokenizer) -> int:
    """Returns the second token that the folder's model generates for the first prompt."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.tensor([tokenizer.prompt_ids(PROMPTS[0], "opt")])
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=2)
    return int(out[0, -1])


def test_verification_refuses_unusable_prompts(tmp_path):
    config, params = CONFIGS["opt"], random_params(CONFIGS["opt"])
    export_pretrained(tmp_path, config, params, words(), "")
    with pytest.raises(ValueError, match="no prompt"):
        verify_export(tmp_path, registry.build(config), params, words(), [])
    with pytest.raises(ValueError, match="fills all 64 positions"):
        verify_export(tmp_path, registry.build(config), params, words(), ["one " * 64])
