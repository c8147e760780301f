"""The decoder family: configs, rotary positions, a published Llama model, and sharded loading."""

import json
import math
import weakref

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from scotd_jax import config as c
from scotd_jax.distributed.mesh import make_mesh
from scotd_jax.distributed.sharding import param_shardings
from scotd_jax.errors import InputError
from scotd_jax.jobs.context import make_context
from scotd_jax.jobs.sample import sample
from scotd_jax.models.api import Precision
from scotd_jax.models.decoder_config import DecoderConfig
from scotd_jax.models.hf import weight_map
from scotd_jax.models.hf.export import export_pretrained
from scotd_jax.models.hf.loading import load_config, load_pretrained
from scotd_jax.models.hf.tensor_files import TensorFiles
from scotd_jax.models.hf.verification import verify_export
from scotd_jax.models.registry import PRESETS, build, config_for
from scotd_jax.models.rope import RopeScaling, frequencies
from scotd_jax.rationales.store import read_responses
from scotd_jax.records import Question, to_json
from scotd_jax.sampling.requests import Request
from scotd_jax.sampling.sampler import Sampler
from scotd_jax.tokenization import Tokenizer
from scotd_jax.workdir import Workdir
from tests.helpers.hf_cases import CONFIGS, random_params, words
from tests.helpers.tolerances import LOGITS

pytestmark = pytest.mark.usefixtures("fast_compilation")
STORY = "Once upon a time, there was a little girl named Lily."


@pytest.fixture(scope="module")
def stories(shared_data):
    return shared_data / "checkpoints" / "stories260K"


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("llama-3.2-1b", 1_235_814_400),
        ("llama-3.1-8b", 8_030_261_248),
        ("llama-3.1-70b", 70_553_706_496),
        ("tinyllama-1.1b", 1_100_048_384),
        ("smollm2-135m", 134_515_008),
        ("smollm2-360m", 361_821_120),
        ("smollm2-1.7b", 1_711_376_384),
        ("qwen2.5-0.5b", 494_032_768),
        ("qwen2.5-1.5b", 1_543_714_304),
        ("qwen2.5-7b", 7_615_616_512),
        ("qwen3-0.6b", 596_049_920),
        ("qwen3-1.7b", 1_720_574_976),
        ("gemma-3-270m", 268_098_176),
        ("gemma-3-1b", 999_885_952),
        ("smollm3-3b", 3_075_098_624),
        ("mistral-7b", 7_248_023_552),
    ],
)
def test_parameter_counts_match_the_published_models(name, count):
    def size(layers):
        return sum(math.prod(pair.shape) for pair in weight_map.pairs(config_for(name, {"num_hidden_layers": layers})))

    one, two = size(1), size(2)  # further layers have the same size
    assert one + (PRESETS[name].num_hidden_layers - 1) * (two - one) == count


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ({"model_type": "gemma"}, "model_type is 'gemma'"),
        ({"num_key_value_heads": 3}, "num_attention_heads 4 is not a multiple of num_key_value_heads 3"),
        ({"head_dim": 5}, "head_dim 5 is odd"),
        ({"head_dim": None, "num_attention_heads": 6, "num_key_value_heads": 6}, "hidden_size 16 is not a multiple"),
        ({"hidden_size": "16"}, "hidden_size should be int, found '16'"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is .*; only None"),
        ({"model_type": "qwen2", "head_dim": None, "mlp_bias": True}, "mlp_bias is True; qwen2 has no such field"),
        ({"layer_types": ["full_attention", "chunked_attention"]}, "layer_types has 'chunked_attention'"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_type is 'dynamic'"),
        ({"rope_scaling": {"type": "linear"}}, "rope_parameters.factor is missing"),
        ({"rope_scaling": {"type": "linear", "factor": "2"}}, r"rope_scaling\.factor should be"),
        (
            {"rope_scaling": {"type": "linear", "factor": 2.0, "beta_fast": 1.0}},
            "beta_fast is no field of rope type linear",
        ),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "mscale": 1.0}}, r"rope_parameters\.mscale is 1\.0"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1.0}}}, "only one setting for all layers"),
        ({"rope_parameters": {"rope_theta": "big"}}, "rope_theta should be float, found 'big'"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
    ],
)
def test_unsupported_config_fields_are_refused(changes, message, tmp_path):
    values = {**CONFIGS["llama"].to_hf(), "rope_scaling": None, "rope_parameters": None, **changes}
    with pytest.raises(InputError, match=f"config.json: .*{message}"):
        DecoderConfig.from_hf(values)
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=str(tmp_path)):
        load_config(tmp_path)


def test_configs_of_earlier_transformers_versions_load():
    sizes = {"hidden_size": 4096, "num_attention_heads": 32, "num_hidden_layers": 32, "vocab_size": 32000}
    llama2 = DecoderConfig.from_hf({"model_type": "llama", **sizes, "rope_scaling": None, "pretraining_tp": 1})
    assert (llama2.key_heads, llama2.head_width, llama2.rope_theta, llama2.rope_scaling) == (32, 128, 10000.0, None)
    scaling = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_type": "llama3"}
    scaling["original_max_position_embeddings"] = 8192
    values = {"model_type": "llama", "rope_theta": 500000.0, "rope_scaling": scaling, "eos_token_id": [1, 2, 3]}
    llama3 = DecoderConfig.from_hf(values)
    assert llama3.rope_scaling == PRESETS["llama-3.1-8b"].rope_scaling
    assert llama3.to_hf()["rope_parameters"] == {**scaling, "rope_theta": 500000.0}
    assert llama3.to_hf()["eos_token_id"] == [1, 2, 3]
    yarn = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    qwen = DecoderConfig.from_hf({"model_type": "qwen2", "rope_scaling": yarn, "sliding_window": 4096})
    assert qwen.rope_scaling == RopeScaling("yarn", 4.0, original_max_position_embeddings=32768)
    assert qwen.sliding_window is None  # use_sliding_window is false
    assert DecoderConfig.from_hf({"model_type": "qwen3"}).head_width == 128


# As in the published config.json of Gemma 3 270M and SmolLM3.
GEMMA = {
    "model_type": "gemma3_text",
    "vocab_size": 262144,
    "hidden_size": 640,
    "intermediate_size": 2048,
    "num_hidden_layers": 18,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 32768,
    "sliding_window": 512,
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
    "use_bidirectional_attention": False,
}
GEMMA_LAYERS = [*["sliding_attention"] * 5, "full_attention"] * 3
GLOBAL, LOCAL = ({"rope_type": "default", "rope_theta": theta} for theta in (1_000_000.0, 10_000.0))
SMOLLM3 = {
    "model_type": "smollm3",
    "max_position_embeddings": 65536,
    "rope_theta": 5_000_000.0,
    "eos_token_id": 128012,
    "no_rope_layers": [1, 1, 1, 0] * 9,
    "layer_types": ["full_attention"] * 36,
    "use_sliding_window": False,
}


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("gemma-3-270m", {**GEMMA, "sliding_window_pattern": 6, "rope_theta": 1e6, "rope_local_base_freq": 10000}),
        ("gemma-3-270m", {**GEMMA, "_sliding_window_pattern": 6, "layer_types": GEMMA_LAYERS, "rope_scaling": None}),
        (
            "gemma-3-270m",
            {
                **GEMMA,
                "layer_types": GEMMA_LAYERS,
                "rope_parameters": {"full_attention": GLOBAL, "sliding_attention": LOCAL},
            },
        ),
        ("smollm3-3b", SMOLLM3),
        ("smollm3-3b", {**SMOLLM3, "no_rope_layers": None, "no_rope_layer_interval": 4}),
    ],
    ids=[
        "gemma, transformers 4.50",
        "gemma, transformers 4.55",
        "gemma, transformers 5",
        "smollm3",
        "smollm3, interval",
    ],
)
def test_published_configs_with_two_kinds_of_layers_load(name, values):
    assert DecoderConfig.from_hf(values) == PRESETS[name]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({**GEMMA, "final_logit_softcapping": 30.0}, r"final_logit_softcapping is 30\.0; only None"),
        ({**GEMMA, "use_bidirectional_attention": True}, "use_bidirectional_attention is True"),
        ({**GEMMA, "layer_types": [*GEMMA_LAYERS[6:], *GEMMA_LAYERS[:5], "sliding_attention"]}, "at every n-th layer"),
        (
            {**GEMMA, "rope_parameters": {"sliding_attention": {**LOCAL, "rope_type": "linear", "factor": 2.0}}},
            r"rope_parameters\.sliding_attention is .*linear.*only type default",
        ),
        ({**GEMMA, "sliding_window_pattern": None}, "sliding_window_pattern is None and rope_local_base_freq 10000.0"),
        ({**SMOLLM3, "no_rope_layers": [1, 0, 0, 1] * 9}, "no_rope_layers is .*; only 0 at every n-th layer"),
        ({**SMOLLM3, "model_type": "llama", "no_rope_layer_interval": 4}, "llama has no such field"),
    ],
)
def test_other_kinds_of_layers_are_refused(values, message):
    with pytest.raises(InputError, match=f"config.json: .*{message}"):
        DecoderConfig.from_hf(values)


def test_sliding_window_limits_max_position_embeddings():
    """A window masks nothing in sequences up to its width; max_position_embeddings excludes longer ones."""
    values = {"model_type": "mistral", "sliding_window": 4096, "max_position_embeddings": 32768}
    assert DecoderConfig.from_hf(values).max_position_embeddings == 4096
    assert DecoderConfig.from_hf({**values, "sliding_window": None}).max_position_embeddings == 32768
    with pytest.raises(InputError, match="sliding_window 8 is less than max_position_embeddings 2048"):
        DecoderConfig("mistral", sliding_window=8)


@pytest.mark.parametrize("name", ["llama-3.1-8b", "llama-3.2-1b", "yarn", "yarn-all-fields", "linear", "qwen3-0.6b"])
def test_frequencies_match_transformers(name):
    pytest.importorskip("torch")
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    scalings = {
        "linear": RopeScaling("linear", 4.0),
        "yarn": RopeScaling("yarn", 4.0, original_max_position_embeddings=32768),
        "yarn-all-fields": RopeScaling(
            "yarn", 8.0, original_max_position_embeddings=4096, attention_factor=1.5, beta_fast=16.0, beta_slow=2.0
        ),
    }
    config = PRESETS[name] if name in PRESETS else DecoderConfig(rope_theta=1e6, rope_scaling=scalings[name])
    values = config.to_hf()
    values.setdefault("head_dim", config.head_width)
    reference = LlamaRotaryEmbedding(LlamaConfig(**{**values, "model_type": "llama"}))
    found, magnitude = frequencies(config.head_width, config.rope_theta, config.rope_scaling)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, reference.inv_freq.numpy(), rtol=2e-6)
    assert magnitude == pytest.approx(reference.attention_scaling)


@pytest.mark.slow
def test_published_llama_matches_pytorch(stories, tmp_path):
    tokenizer = Tokenizer.load(stories)
    assert tokenizer.prompt_ids("Once upon a time", "decoder") == [1, 403, 407, 261, 378]
    config, params = load_pretrained(stories)
    model = build(config, Precision("float32"))
    greedy = c.Sampling(temperature=0.0, max_new_tokens=32, batch_size=1, bucket=16)
    sampler = Sampler(model, params, tokenizer, greedy, seed=0)
    [[finished]] = sampler([Request("q", tokenizer.prompt_ids("", "decoder"), (0,))])
    assert finished.text.lstrip().startswith(STORY)

    export_pretrained(tmp_path, config, params, tokenizer, "")
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (tmp_path, stories))
    assert {name: value.tobytes() for name, value in ours.items()} == {k: v.tobytes() for k, v in theirs.items()}
    pytest.importorskip("torch")
    checked = verify_export(tmp_path, model, params, tokenizer, ["Once upon a time", "Lily"], max_new_tokens=12)
    assert checked["logit_error"] <= LOGITS


@pytest.mark.slow
def test_local_folder_serves_as_teacher(stories, tmp_path):
    questions = [Question(f"q{i}", "home", "train", f"Where is the {thing}?") for i, thing in enumerate(("cat", "dog"))]
    (tmp_path / "task").mkdir()
    (tmp_path / "task/train.jsonl").write_text("".join(to_json(q) + "\n" for q in questions))
    rationales = c.ModelSource(
        questions=("home.train",),
        model=c.Model(path=str(stories)),
        sampling=c.Sampling(n=2, max_new_tokens=8, batch_size=8, bucket=64),
    )
    task = c.Task(kind="jsonl", path=str(tmp_path / "task"), format="scotd")
    config = c.Config(tasks={"home": task}, rationales={"local": rationales}, mesh=c.Mesh(data=2, fsdp=2, tensor=2))
    sample(make_context(config, Workdir(str(tmp_path / "w"))), "local")
    rows = list(read_responses(sorted((tmp_path / "w/rationales/local").glob("responses-*.jsonl"))))
    assert {row.key for row in rows} == {(q.id, i) for q in questions for i in range(2)}
    assert all(row.model == str(stories) and row.num_tokens and math.isfinite(row.logprob) for row in rows)


def test_rotary_frequencies_in_old_files_are_ignored(tmp_path):
    params = random_params(CONFIGS["llama"])
    export_pretrained(tmp_path, CONFIGS["llama"], params, words(), "")
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(2, np.float32)
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    jax.tree.map(np.testing.assert_array_equal, load_pretrained(tmp_path)[1], params)


@pytest.mark.parametrize(
    ("name", "dtype"), [("llama", "bfloat16"), ("llama-biased", "float32"), ("t5-v1.1", "float32")]
)
def test_parameters_are_transferred_one_at_a_time(name, dtype, tmp_path, monkeypatch):
    config = CONFIGS[name]
    export_pretrained(tmp_path, config, random_params(config), words(), "", dtype=dtype, max_shard_size=4000)
    alive: dict[int, tuple[weakref.ref, int]] = {}
    peak = 0

    def tracked(array):
        nonlocal peak
        alive[id(array)] = weakref.ref(array), array.nbytes
        peak = max(peak, sum(size for array, size in alive.values() if array() is not None))
        return array

    read, make_array = TensorFiles.read, jax.make_array_from_callback
    monkeypatch.setattr(TensorFiles, "read", lambda *args: tracked(read(*args)))
    # CPU devices would alias the host array; + 0 copies it, as a transfer to other devices does.
    monkeypatch.setattr(
        jax, "make_array_from_callback", lambda *args: make_array(*args[:2], lambda i: tracked(args[2](i)) + 0)
    )
    expected = load_pretrained(tmp_path)[1]
    sizes = [leaf.nbytes for leaf in jax.tree.leaves(expected)]
    alive.clear()
    peak = 0

    model = build(config)
    shardings = param_shardings(make_mesh(c.Mesh(data=2, fsdp=2, tensor=2)), model.axes(), model.abstract())
    found = load_pretrained(tmp_path, shardings)[1]
    assert 0 < peak <= 2 * max(sizes) < sum(sizes) / 2
    assert jax.tree.map(lambda leaf: leaf.sharding, found) == shardings
    jax.tree.map(np.testing.assert_array_equal, found, expected)
