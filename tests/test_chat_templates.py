"""Chat templates: the token ids of transformers, end tokens, and the exported folder of a chat model."""

import json
import pickle

import pytest

from scotd_jax.errors import InputError
from scotd_jax.models import registry
from scotd_jax.models.api import Precision
from scotd_jax.models.hf.loading import load_pretrained
from scotd_jax.models.hf.verification import verify_export
from scotd_jax.reporting.cards import model_card
from scotd_jax.tokenization import Tokenizer
from tests.helpers.chat_model import chat_tokenizer

pytestmark = pytest.mark.usefixtures("fast_compilation")
CONVERSATION = [
    {"role": "user", "content": "Q: wet?\nA: "},
    {"role": "assistant", "content": "Rain. So the answer is: (a)"},
    {"role": "user", "content": "Q: naïve 日本\n\n"},
]


@pytest.mark.slow
def test_chat_ids_match_transformers(chat_home):
    import transformers

    ours, oracle = Tokenizer.load(chat_home / "model"), transformers.AutoTokenizer.from_pretrained(chat_home / "model")
    for turns in (CONVERSATION, CONVERSATION[:1]):
        ids = ours.chat_ids(turns)
        assert ids == oracle.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
        assert ids == ours.prompt_ids(tuple(turns), "decoder") == ours.prompt_ids(turns, "t5")
        assert ids[0] == ours.bos_id
        assert ids.count(ours.bos_id) == 1
        assert ours.eos_id not in ids
        encoder = pickle.loads(pickle.dumps(ours.encoder("decoder", chat=True)))  # as a worker process receives it
        assert [*encoder.prefix_ids, *encoder([encoder.render(turns)])[0], *encoder.suffix_ids] == ids


@pytest.mark.parametrize("kind", [None, "decoder", "opt"])
def test_saved_tokenizer_keeps_its_chat_template(tmp_path, kind):
    for template in (None, {"default": chat_tokenizer().chat_template, "tool_use": "tools"}):
        tokenizer = Tokenizer(chat_tokenizer() if template is None else chat_tokenizer(template))
        tokenizer.save(tmp_path, kind)
        tokenizer.save(tmp_path, kind)  # overwrites the files
        again = Tokenizer.load(tmp_path)
        assert again.chat_template == tokenizer.chat_template
        assert again.chat_ids(CONVERSATION) == tokenizer.chat_ids(CONVERSATION)


def test_missing_template_is_reported_with_what_to_do(tmp_path):
    Tokenizer(chat_tokenizer(None)).save(tmp_path)
    tokenizer = Tokenizer.load(tmp_path)
    with pytest.raises(InputError, match=f"{tmp_path.name}': has no chat template.*tokenizer=FOLDER.*chat=False"):
        tokenizer.chat_ids(CONVERSATION)
    with pytest.raises(InputError, match="has no chat template"):
        _ = Tokenizer(chat_tokenizer({"tool_use": "x"})).chat_template


@pytest.mark.parametrize(
    ("template", "message"),
    [(None, "2 turns of system and user .no system turns"), ("{{ 'x' + none }}", "refuses"), ("{% if %}", "refuses")],
)
def test_error_of_a_template_is_reported(template, message):
    tokenizer = Tokenizer(chat_tokenizer() if template is None else chat_tokenizer(template))
    with pytest.raises(InputError, match=message):
        tokenizer.chat_ids([{"role": "system", "content": "s"}, CONVERSATION[0]])


def test_templates_with_a_clock_render_a_fixed_day(tmp_path):
    template = "\n {%- set day = strftime_now('%d %b %Y (%A, %m)') %}{{ day }}\n{{ messages[0].content }}"
    tokenizer = Tokenizer(chat_tokenizer(template))
    assert tokenizer.decode(tokenizer.chat_ids([{"role": "user", "content": "x"}])) == "26 Jul 2024 (Friday, 07)\nx"
    tokenizer.save(tmp_path)
    assert Tokenizer.load(tmp_path).chat_template == tokenizer.chat_template
    # Everything else is unchanged, including line ends and blanks at the beginning.
    plain, clocked = "\n  {% if true %}x{% endif %}", "\n  {% if true %}x{% endif %}{% set a = strftime_now %}"
    ids = [Tokenizer(chat_tokenizer(each)).chat_ids(CONVERSATION) for each in (plain, clocked)]
    assert ids[0] == ids[1]


@pytest.mark.parametrize(
    ("generation", "config", "ends"),
    [
        ([4, 2], 3, (2, 4)),
        (4, 3, (2, 4)),
        (None, [2, 4], (2, 4)),
        (None, None, (2,)),
        ([-1, 10**6, 4], 3, (2, 4)),
        ("missing", 4, (2, 4)),
    ],
)
def test_eos_ids_come_from_the_model_folder(tmp_path, generation, config, ends):
    Tokenizer(chat_tokenizer()).save(tmp_path / "tokenizer")
    assert Tokenizer.load(tmp_path / "tokenizer").eos_ids == (2,)
    for folder in (tmp_path / "model", tmp_path / "tokenizer"):
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps({"model_type": "llama", "eos_token_id": config}))
        if generation != "missing":
            (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": generation}))
        assert Tokenizer.load(tmp_path / "tokenizer", tmp_path / "model").eos_ids == ends
    assert Tokenizer.load(tmp_path / "tokenizer").eos_ids == ends
    assert Tokenizer.load(tmp_path / "tokenizer" / "tokenizer.json").eos_ids == ends


@pytest.mark.parametrize(
    ("turn_end", "end"),
    [("<|im_end|>\n", 4), ("</s>", 2), ("<|im_end|></s>\n", 4), ("\n\n", 2), ("", 2)],
    ids=["own token", "end token", "both", "text only", "nothing"],
)
def test_end_of_an_assistant_turn_ends_responses_of_chats(turn_end, end):
    template = "{% for m in messages %}{{ m.content }}" + turn_end + "{% endfor %}"
    chat = Tokenizer(chat_tokenizer(template), chat=True)
    assert (chat.end_id, chat.eos_ids) == (end, tuple(dict.fromkeys((2, end))))
    assert chat.encoder("decoder", chat=True).end_id == end
    text = Tokenizer(chat_tokenizer(template))
    assert (text.end_id, text.eos_ids) == (2, (2,))


def test_word_level_tokenizer_renders_chats():
    tokenizer = Tokenizer.train_word_level(["wet is rain"], chat=True)
    assert tokenizer.size == Tokenizer.train_word_level(["wet is rain"]).size
    turns = [{"role": role, "content": "is wet"} for role in ("user", "assistant", "user")]
    words = tokenizer.encode("is wet")
    start, end = tokenizer.bos_id, tokenizer.eos_id
    assert tokenizer.chat_ids(turns) == [start, *words, end] * 3 + [start]
    assert tokenizer.end_id == end


@pytest.mark.parametrize(
    ("text", "message"), [("{", "not JSON"), ('{"eos_token_id": ["</s>"]}', r"eos_token_id is \['</s>'\]")]
)
def test_invalid_eos_ids_are_refused(tmp_path, text, message):
    Tokenizer(chat_tokenizer()).save(tmp_path)
    (tmp_path / "generation_config.json").write_text(text)
    with pytest.raises(InputError, match=f"generation_config.json: {message}"):
        Tokenizer.load(tmp_path)


@pytest.mark.slow
def test_exported_chat_model_agrees_with_pytorch(chat_home):
    pytest.importorskip("torch")
    found, params = load_pretrained(chat_home / "model")
    tokenizer = Tokenizer.load(chat_home / "model")
    assert tokenizer.eos_ids == (2, 4)
    model = registry.build(found, Precision("float32"))
    checked = verify_export(
        chat_home / "model", model, params, tokenizer, [CONVERSATION, CONVERSATION[:1]], max_new_tokens=4
    )
    assert checked["prompts"] == 2


def test_model_card_shows_chat_turns():
    card = model_card("s", kind="decoder", about="", prompt=tuple(CONVERSATION[:1]), results={}, facts={})
    [line] = [line for line in card.splitlines() if line.startswith("inputs = ")]
    assert line == (
        "inputs = tokenizer.apply_chat_template([{'role': 'user', 'content': 'Q: wet?\\nA: '}], "
        'add_generation_prompt=True, return_dict=True, return_tensors="pt")'
    )
