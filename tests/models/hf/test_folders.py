"""Import and export without PyTorch: exact round trips, and errors that name the file and the tensor."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from scotd_jax.errors import InputError
from scotd_jax.models.hf import loading, weight_map
from scotd_jax.models.hf.export import export_pretrained
from scotd_jax.models.hf.loading import load_config, load_pretrained
from scotd_jax.models.registry import PRESETS, config_for
from scotd_jax.models.t5_config import T5Config
from scotd_jax.tokenization import Tokenizer
from tests.helpers.hf_cases import ANY_TOKENIZER, CONFIGS, random_params, words

WEIGHTS = "model.safetensors"


def export(folder, name="opt", seed=0, **options):
    """Exports a model with random parameters; returns its config and its parameters."""
    config = CONFIGS[name]
    params = random_params(config, seed)
    export_pretrained(folder, config, params, words(), "# A model\n", **options)
    return config, params


def edit(folder, change):
    """Applies `change` to the dict of tensors in the folder's weights."""
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})


def put(value, position):
    """Returns a change that puts a value at a position of a bias."""
    bias = np.zeros(24, value.dtype)
    bias[position] = value
    return lambda tensors: tensors.update({"model.decoder.layers.0.fc1.bias": bias})


NOT_FINITE = r"model\.safetensors: tensor 'model.decoder.layers.0.fc1.bias' contains NaN, infinity or numbers beyond"


def assert_same(params, other):
    ours, theirs = weight_map.flatten(params), weight_map.flatten(other)
    assert list(ours) == list(theirs)
    for name, value in ours.items():
        assert value.dtype == theirs[name].dtype == np.float32
        assert value.tobytes() == theirs[name].tobytes(), name


@pytest.mark.parametrize("name", ["opt-350m", "opt-66b", "t5-11b", "flan-t5-xl", "llama-3.1-8b", "qwen3-0.6b"])
def test_weight_map_covers_every_parameter_once(name):
    layers = "num_layers" if PRESETS[name].kind == "t5" else "num_hidden_layers"
    pairs = weight_map.pairs(config_for(name, {layers: 3}))  # further layers follow the same rules
    assert len({p.theirs for p in pairs}) == len(pairs)
    assert not {c for p in pairs for c in p.copies} & {p.theirs for p in pairs}


def test_missing_weight_rule_is_found(monkeypatch):
    monkeypatch.setattr(weight_map, "RULES", {**weight_map.RULES, "opt": weight_map.OPT[:-1]})
    with pytest.raises(RuntimeError, match="mlp_norm/bias"):
        weight_map.pairs(CONFIGS["opt"])


def test_nest_inverts_flatten():
    params = random_params(CONFIGS["t5-v1.1"])
    assert_same(weight_map.nest(weight_map.flatten(params)), params)


@pytest.mark.slow
@pytest.mark.parametrize("shards", [5 * 10**9, 2000])
@pytest.mark.parametrize("name", CONFIGS)
def test_export_and_import_round_trip_is_byte_equal(name, shards, tmp_path):
    config, params = export(tmp_path, name, max_shard_size=shards)
    loaded_config, found = load_pretrained(tmp_path)
    assert_same(found, params)
    # compared as dicts, because export writes out defaults of word_embed_proj_dim and num_decoder_layers
    assert loaded_config.to_hf() == config.to_hf()
    files = sorted(tmp_path.glob("model*.safetensors"))
    assert (len(files) > 1) == (shards == 2000) == (tmp_path / "model.safetensors.index.json").exists()
    assert (tmp_path / "README.md").read_text() == "# A model\n"
    if name in ANY_TOKENIZER:
        assert Tokenizer.load(tmp_path).fingerprint() == words().fingerprint()


def test_shards_are_bounded_and_indexed(tmp_path):
    _, params = export(tmp_path, max_shard_size=3000)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    files = {file: load_file(tmp_path / file) for file in set(index["weight_map"].values())}
    assert {p.name for p in tmp_path.glob("*.safetensors")} == set(files)
    assert all(sum(t.nbytes for t in tensors.values()) <= 3000 or len(tensors) == 1 for tensors in files.values())
    assert all(name in files[file] for name, file in index["weight_map"].items())
    total = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert index["metadata"] == {"total_parameters": total, "total_size": 4 * total}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_stored_and_read_as_float32(dtype, tmp_path):
    _, params = export(tmp_path, dtype=dtype)
    _, found = load_pretrained(tmp_path)
    stored = np.dtype(dtype) if dtype == "float16" else jax.numpy.bfloat16
    assert_same(found, jax.tree.map(lambda x: x.astype(stored).astype(np.float32), params))
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == dtype


def test_second_export_removes_files_of_the_first(tmp_path):
    export(tmp_path, max_shard_size=2000)
    _, params = export(tmp_path, seed=1)
    assert sorted(p.name for p in tmp_path.glob("model*")) == [WEIGHTS]
    assert_same(load_pretrained(tmp_path)[1], params)
    export(tmp_path, max_shard_size=2000)
    assert not (tmp_path / WEIGHTS).exists()
    assert not list(tmp_path.glob(".*"))


def test_special_tokens_agree_in_all_files(tmp_path):
    for name, start in (("opt", None), ("t5-v1.0", 0)):
        export(tmp_path / name, name)
        generation = json.loads((tmp_path / name / "generation_config.json").read_text())
        config = json.loads((tmp_path / name / "config.json").read_text())
        for key, value in {"bos_token_id": 3, "eos_token_id": 1, "pad_token_id": 0}.items():
            assert generation[key] == config[key] == value
        assert generation.get("decoder_start_token_id") == config.get("decoder_start_token_id") == start
        assert generation["suppress_tokens"] == list(range(words().size, 40))


def test_equal_tied_copies_are_accepted(tmp_path):
    _, params = export(tmp_path, "t5-v1.0")
    copies = ("lm_head.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
    edit(tmp_path, lambda t: t.update(dict.fromkeys(copies, t["shared.weight"])))
    assert_same(load_pretrained(tmp_path)[1], params)
    edit(tmp_path, lambda t: t.pop("shared.weight"))  # a copy alone suffices
    assert_same(load_pretrained(tmp_path)[1], params)
    edit(tmp_path, lambda t: t.update({"lm_head.weight": t["lm_head.weight"] + 1}))
    with pytest.raises(InputError, match=r"model\.safetensors: tensor .*differs from .*tied"):
        load_pretrained(tmp_path)


def test_opt_loads_without_head_and_with_tied_head(tmp_path):
    _, params = export(tmp_path, "opt")
    edit(tmp_path, lambda t: t.update({"lm_head.weight": t["model.decoder.embed_tokens.weight"]}))
    assert_same(load_pretrained(tmp_path)[1], params)

    def remove_head_and_prefix(tensors):
        tensors.pop("lm_head.weight")
        for name in list(tensors):
            tensors[name.removeprefix("model.")] = tensors.pop(name)

    edit(tmp_path, remove_head_and_prefix)
    assert_same(load_pretrained(tmp_path)[1], params)


def test_t5_configs_of_transformers_5_load(tmp_path):
    unused = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    _, params = export(tmp_path, "t5-v1.1")
    edit(tmp_path, lambda t: t.update({unused: np.zeros((32, 4), np.float32)}))
    assert_same(load_pretrained(tmp_path)[1], params)
    # transformers 5 writes tie_word_embeddings=true for every T5; only scale_decoder_outputs distinguishes v1.1
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"tie_word_embeddings": True, "scale_decoder_outputs": False}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert_same(load_pretrained(tmp_path)[1], params)
    # transformers 5 stores only one of two equal matrices
    edit(tmp_path, lambda t: t.pop("lm_head.weight"))
    found = load_pretrained(tmp_path)[1]
    np.testing.assert_array_equal(found["lm_head"]["kernel"], params["embed"]["tokens"])


def test_start_token_is_read_from_generation_config(tmp_path):
    export(tmp_path, "t5-v1.0")
    config = json.loads((tmp_path / "config.json").read_text())
    del config["decoder_start_token_id"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "generation_config.json").write_text('{"decoder_start_token_id": 7}')
    assert load_config(tmp_path).start_token == 7


@pytest.mark.parametrize("size", ["base", "large", "xl", "xxl"])
def test_published_flan_t5_configs_load(size, shared_data, tmp_path):
    text = (shared_data / "tokenizers" / "t5" / f"flan-t5-{size}-config.json").read_text()
    (tmp_path / "config.json").write_text(text)
    config = load_config(tmp_path)
    assert config == config_for(f"flan-t5-{size}", {"num_decoder_layers": config.num_decoder_layers})
    assert isinstance(config, T5Config)
    assert config.gated
    assert config.start_token == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.pop("model.decoder.layers.1.fc1.bias"),
            r"no file contains tensor 'model.decoder.layers.1.fc1.bias'",
        ),
        (lambda t: t.update(extra=np.zeros(2, np.float32)), r"model\.safetensors: tensor 'extra' .*no parameter"),
        (
            lambda t: t.update({"model.decoder.layers.0.fc1.weight": np.zeros((16, 24), np.float32)}),
            r"model\.safetensors: tensor 'model.decoder.layers.0.fc1.weight' is float32 \(16, 24\).*\(24, 16\)",
        ),
        (lambda t: t.update({"model.decoder.layers.0.fc1.bias": np.zeros(24, np.int32)}), r"fc1.bias' is int32"),
        (put(np.float32(np.nan), 23), NOT_FINITE),
        (put(np.float32(-np.inf), 0), NOT_FINITE),
        (put(np.float64(1e39), 5), NOT_FINITE),
    ],
    ids=["missing", "unknown", "shape", "type", "NaN", "infinity", "overflow"],
)
def test_mismatched_weights_are_refused(change, message, tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "_CHECKED", 8)  # tensors are checked in several blocks
    export(tmp_path)
    edit(tmp_path, change)
    with pytest.raises(InputError, match=message):
        load_pretrained(tmp_path)


def test_broken_or_missing_files_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"nowhere: no such file or folder"):
        load_pretrained(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"config\.json: no such file"):
        load_pretrained(tmp_path)
    export(tmp_path)
    whole = (tmp_path / WEIGHTS).read_bytes()
    (tmp_path / WEIGHTS).write_bytes(whole[:-10])
    with pytest.raises(InputError, match=r"model\.safetensors: not a complete safetensors file"):
        load_pretrained(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    (tmp_path / "tf_model.h5").write_bytes(b"")
    with pytest.raises(InputError, match=r"expected model\.safetensors, .*; found tf_model\.h5"):
        load_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(InputError, match=r"config\.json: model_type is 'bert'; supported are opt, t5, llama"):
        load_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "opt", "activation_function": "gelu"}')
    with pytest.raises(InputError, match="activation_function is 'gelu'"):
        load_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json: not JSON"):
        load_pretrained(tmp_path)


def test_wrong_index_is_refused(tmp_path):
    export(tmp_path, max_shard_size=2000)
    file = tmp_path / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    names = sorted(index["weight_map"])
    moved = next(n for n in names if index["weight_map"][n] != index["weight_map"][names[0]])
    index["weight_map"][names[0]] = index["weight_map"][moved]
    file.write_text(json.dumps(index))
    with pytest.raises(InputError, match=rf"index\.json: lists '{names[0]}' in .*, which does not contain it"):
        load_pretrained(tmp_path)
    next(iter(tmp_path.glob("model-00001*"))).unlink()
    with pytest.raises(InputError, match=r"model-00001-of-.*: no such file, but .*index.json lists it"):
        load_pretrained(tmp_path)


def test_impossible_export_is_refused(tmp_path):
    config, params = CONFIGS["opt"], random_params(CONFIGS["opt"])
    many = Tokenizer.train_word_level([" ".join(map(str, range(50)))])
    with pytest.raises(InputError, match="54 tokens, the model only 40"):
        export_pretrained(tmp_path, config, params, many, "")
    with pytest.raises(ValueError, match="parameter embed/tokens: .*None"):
        export_pretrained(
            tmp_path, config, {**params, "embed": {"positions": params["embed"]["positions"]}}, words(), ""
        )
    params["final_norm"]["scale"][0] = 1e6
    with pytest.raises(InputError, match="final_norm/scale has values beyond float16"):
        export_pretrained(tmp_path, config, params, words(), "", dtype="float16")
    assert not list(tmp_path.iterdir())


def test_full_disk_keeps_the_previous_export(tmp_path, monkeypatch):
    _, params = export(tmp_path)

    def disk_full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("scotd_jax.models.hf.export.save_file", disk_full)
    with pytest.raises(InputError, match="the disk is full"):
        export(tmp_path, seed=1)
    assert_same(load_pretrained(tmp_path)[1], params)
    assert not list(tmp_path.glob(".*"))


def test_remains_of_a_killed_export_are_removed(tmp_path):
    (tmp_path / ".staging-killed").mkdir()
    (tmp_path / ".staging-killed" / WEIGHTS).write_bytes(b"half")
    export(tmp_path)
    assert not list(tmp_path.glob(".*"))


def test_remote_folders_are_written_and_read_through_local_copies(tmp_path, monkeypatch):
    monkeypatch.setattr("scotd_jax.local_files.is_local", lambda path: False)  # as if the folder were remote
    (tmp_path / "subfolder").mkdir()
    _, params = export(tmp_path, max_shard_size=2000)
    assert_same(load_pretrained(tmp_path)[1], params)
    assert Tokenizer.load(tmp_path).fingerprint() == words().fingerprint()
    assert not list(tmp_path.glob(".*"))
    with pytest.raises(InputError, match="no such file"):
        Tokenizer.load(tmp_path / "nowhere")
