"""Tests of the tokenizers: pretrained ones against their libraries, word-level ones against their definition."""

import json
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scotd_jax.errors import InputError
from scotd_jax.tokenization import SPECIAL_TOKENS, Tokenizer

WORDS = ["the red box is in the hall .", "the answer is (a) .", "the hall is red ."]


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    return Tokenizer.train_word_level(WORDS)


@pytest.fixture(scope="module")
def t5(shared_data) -> Tokenizer:
    return Tokenizer.load(shared_data / "tokenizers" / "t5" / "spiece.model")


@pytest.fixture(scope="module")
def opt(shared_data) -> Tokenizer:
    return Tokenizer.load(shared_data / "tokenizers" / "opt")


def questions(shared_data, count=200) -> list[str]:
    lines = (shared_data / "commonsenseqa" / "dev_rand_split.jsonl").read_text().splitlines()
    stems = [json.loads(line)["question"]["stem"] for line in lines[:count]]
    return [*stems, "Q: x\n\nA: {y}", "naïve 日本 ½ ﬁne", " two  blanks "]


def token_bytes_match_decode(tokenizer: Tokenizer, ids: list[int]) -> bool:
    texts = tokenizer.token_bytes()
    joined = b"".join(texts[i] for i in ids).decode(errors="replace")
    return joined.removeprefix(" ") == tokenizer.decode(ids).removeprefix(" ")


# ---- word-level tokenizers


def test_word_level_ids_are_ordered_by_frequency(words):
    assert (words.pad_id, words.eos_id, words.bos_id) == (0, 1, 3)
    assert words.encode("the . is") == [4, 5, 6]  # four times, three, three
    assert words.size == len(SPECIAL_TOKENS) + len({w for text in WORDS for w in text.split()})
    assert words.encode("the  green\nbox") == [words.encode("the")[0], 2, words.encode("box")[0]]
    assert Tokenizer.train_word_level(reversed(WORDS)).fingerprint() == words.fingerprint()
    assert Tokenizer.train_word_level(WORDS[:2]).fingerprint() != words.fingerprint()


def test_word_level_round_trip_drops_special_tokens(words):
    for text in WORDS:
        assert words.decode(words.encode(text)) == text
    assert words.decode([0, *words.encode("red box"), 2, 1, 0]) == "red box"
    assert words.prompt_ids("red box", "opt") == [3, *words.encode("red box")]
    assert words.prompt_ids("red box", "t5") == [*words.encode("red box"), 1]
    assert words.prompt_ids("red box", "decoder") == words.encode("red box")
    with pytest.raises(ValueError, match="'llama'"):
        words.prompt_ids("red", "llama")


@settings(max_examples=50)
@given(ids=st.lists(st.integers(0, 12)))
def test_word_level_token_bytes_match_decode(ids):
    assert token_bytes_match_decode(Tokenizer.train_word_level(WORDS), ids)


@pytest.mark.parametrize("kind", [None, "opt", "t5", "decoder"])
@pytest.mark.parametrize("model_type", [None, "opt", "t5"])
def test_saved_word_level_tokenizer_loads_here_and_in_transformers(words, tmp_path, kind, model_type):
    transformers = pytest.importorskip("transformers")
    words.save(tmp_path, kind)
    if model_type:  # AutoTokenizer could prefer the class of the model beside it
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    again = Tokenizer.load(tmp_path)
    assert again.fingerprint() == words.fingerprint()
    assert again.token_bytes() == words.token_bytes()
    auto = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert (auto.pad_token_id, auto.eos_token_id, auto.bos_token_id) == (0, 1, 3)
    assert auto.decode([*words.encode(WORDS[0]), 1], skip_special_tokens=True) == WORDS[0]
    if kind:
        assert auto(WORDS[0]).input_ids == words.prompt_ids(WORDS[0], kind)
    assert not list(tmp_path.glob(".staging*"))


# ---- T5


def test_t5_ids_match_sentencepiece(t5, shared_data):
    sentencepiece = pytest.importorskip("sentencepiece")
    oracle = sentencepiece.SentencePieceProcessor(model_file=str(shared_data / "tokenizers/t5/spiece.model"))
    for text in questions(shared_data):
        assert t5.encode(text) == oracle.encode(text)
        assert t5.prompt_ids(text, "t5") == [*oracle.encode(text), 1]
        assert token_bytes_match_decode(t5, t5.encode(text))


def test_t5_known_ids(t5):
    assert (t5.pad_id, t5.eos_id, t5.bos_id, t5.size) == (0, 1, 1, 32100)
    assert t5.encode("\n\n") == []
    assert t5.encode("{ } < ~ \\ ^ `")[1::2] == [2] * 7
    assert t5.decode([8774, 296, 1, 32099, 0]) == "Hello world"
    texts = t5.token_bytes()
    assert (texts[8774], texts[0], texts[1], texts[2], texts[32099]) == (b" Hello", b"", b"", b"", b"")


# ---- OPT


def test_opt_known_ids(opt):
    assert (opt.bos_id, opt.eos_id, opt.pad_id, opt.size) == (2, 2, 1, 50265)
    assert opt.encode("\n\n") == [50140]
    assert opt.encode("\n\nQ:")[:2] == [50118, 50118]
    assert opt.encode("\n\n\n") == [50140, 50118]
    assert opt.encode("A: ")[-1] == 1437
    assert opt.encode(" So the answer is:") == [407, 5, 1948, 16, 35]
    assert opt.encode(" (b)") == [36, 428, 43]
    texts = opt.token_bytes()
    assert (texts[50140], texts[50118], texts[1437], texts[2], texts[1]) == (b"\n\n", b"\n", b" ", b"", b"")


def test_opt_round_trips_arbitrary_text(opt, shared_data):
    texts = opt.token_bytes()
    for text in questions(shared_data):
        ids = opt.encode(text)
        assert opt.decode(ids) == text
        assert b"".join(texts[i] for i in ids) == text.encode()
        assert opt.prompt_ids(text, "opt") == [2, *ids]


# ---- saving and loading


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["t5", "opt"])
@pytest.mark.parametrize("name", ["t5", "opt"])
def test_saved_pretrained_tokenizer_loads_here_and_in_transformers(name, kind, request, tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizer = request.getfixturevalue(name)
    tokenizer.save(tmp_path, kind)
    again = Tokenizer.load(tmp_path)
    assert again.fingerprint() == tokenizer.fingerprint()
    assert (again.eos_id, again.pad_id, again.size) == (tokenizer.eos_id, tokenizer.pad_id, tokenizer.size)
    auto = transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = "Where is the (a) box?"
    assert auto(text).input_ids == again.prompt_ids(text, kind) == tokenizer.prompt_ids(text, kind)


@pytest.mark.slow
def test_byte_fallback_tokens_become_bytes(shared_data):
    llama = Tokenizer.load(shared_data / "checkpoints" / "stories260K")
    assert llama.encode("Once upon a time") == [403, 407, 261, 378]
    assert llama.prompt_ids("Once upon a time", "decoder") == [
        1,
        403,
        407,
        261,
        378,
    ]  # begins with <s>, which the tokenizer itself adds
    ids = llama.encode("Once\nupon é")
    texts = llama.token_bytes()
    assert b"\n" in [texts[i] for i in ids]
    assert token_bytes_match_decode(llama, ids)


def test_decoder_prompt_has_only_the_leading_special_tokens_of_the_tokenizer(words):
    from tokenizers import processors

    tokenizer = Tokenizer.train_word_level(WORDS)
    tokenizer._backend.post_processor = processors.TemplateProcessing(
        single=["<s>", "$A", "</s>"], special_tokens=[("<s>", 3), ("</s>", 1)]
    )
    assert tokenizer._backend.encode("red").ids == [3, *words.encode("red"), 1]
    assert tokenizer.prompt_ids("red box", "decoder") == [3, *words.encode("red box")]
    assert tokenizer.encoder("decoder").prefix_ids == (3,)


@pytest.mark.parametrize(
    ("prefix_tokens", "names", "first"),
    [
        ((), {"eos_token": "</s>"}, None),  # Qwen: no BOS token, no pad token of its own
        (("<s>",), {"bos_token": "<s>", "eos_token": "</s>"}, 1),  # Llama, TinyLlama: BOS token, no pad token
        (("<s>",), {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}, 1),  # Gemma
    ],
    ids=["qwen", "llama", "gemma"],
)
def test_begin_token_comes_once_and_survives_an_export(prefix_tokens, names, first, tmp_path):
    import transformers
    from tokenizers import Tokenizer as Backend
    from tokenizers import models, pre_tokenizers, processors

    backend = Backend(models.WordLevel({"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "a": 4}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    template = [*prefix_tokens, "$A"]
    special_tokens = [(token, 1) for token in prefix_tokens]
    backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=special_tokens)
    tokenizer = Tokenizer(transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **names))
    expected = [first, 4, 4] if first is not None else [4, 4]
    assert tokenizer.prompt_ids("a a", "decoder") == expected
    assert tokenizer.encoder("decoder").prefix_ids == tuple(expected[:-2])
    assert tokenizer.pad_id == (0 if "pad_token" in names else tokenizer.eos_id)
    tokenizer.save(tmp_path, "decoder")
    assert transformers.AutoTokenizer.from_pretrained(tmp_path)("a a").input_ids == expected
    assert Tokenizer.load(tmp_path).prompt_ids("a a", "decoder") == expected


def test_folder_with_a_bare_spiece_model_loads(t5, shared_data, tmp_path):
    shutil.copy(shared_data / "tokenizers/t5/spiece.model", tmp_path / "spiece.model")
    assert Tokenizer.load(tmp_path).fingerprint() == t5.fingerprint()


def test_missing_and_unreadable_tokenizers_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"nowhere: no such file"):
        Tokenizer.load(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"no tokenizer found; expected tokenizer\.json"):
        Tokenizer.load(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InputError, match=r"notes\.txt: expected a folder"):
        Tokenizer.load(tmp_path / "notes.txt")
    for name in ("spiece.model", "tokenizer.json"):
        folder = tmp_path / name.replace(".", "_")
        folder.mkdir()
        (folder / name).write_bytes(b"\x00garbage")
        with pytest.raises(InputError, match="cannot be read as a tokenizer"):
            Tokenizer.load(folder)


def test_failed_save_leaves_the_folder_unchanged(words, tmp_path, monkeypatch):
    words.save(tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    other = Tokenizer.train_word_level(["quite other words"])

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("scotd_jax.tokenization.json.dumps", full)
    with pytest.raises(OSError, match="No space left"):
        other.save(tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
