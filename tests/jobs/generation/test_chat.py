"""Chat templates: the same token ids as in transformers, and the same turns for local and remote models."""

import dataclasses
import json
import pickle
from pathlib import Path

import pytest

from scotd_jax import config as c
from scotd_jax.corpus.reader import CorpusReader
from scotd_jax.errors import InputError
from scotd_jax.jobs.build import build
from scotd_jax.jobs.context import RunContext, make_context
from scotd_jax.jobs.generation.local import PromptedModel
from scotd_jax.jobs.generation.prompting import prompt_settings, source_prompt_settings, uses_chat_template
from scotd_jax.jobs.generation.servers.remote_model import make_remote_model
from scotd_jax.jobs.generation.thinking import IGNORE_THINKING, ThinkingBlocks
from scotd_jax.jobs.graph import chain
from scotd_jax.jobs.manifests import responses_identity
from scotd_jax.jobs.sample import sample
from scotd_jax.models import registry
from scotd_jax.models.api import Precision
from scotd_jax.models.hf.loading import load_pretrained
from scotd_jax.models.hf.verification import verify_export
from scotd_jax.rationales.store import read_responses
from scotd_jax.reporting.cards import model_card
from scotd_jax.sampling.requests import Sample
from scotd_jax.tasks.instructions import REASON
from scotd_jax.tokenization import Tokenizer
from scotd_jax.workdir import Workdir
from tests.configs.chat import get_config
from tests.helpers.chat_model import EXEMPLARS, NUM_QUESTIONS, chat_tokenizer, write_model, write_task
from tests.helpers.cli import run_cli

CONVERSATION = [
    {"role": "user", "content": "Q: wet?\nA: "},
    {"role": "assistant", "content": "Rain. So the answer is: (a)"},
    {"role": "user", "content": "Q: naïve 日本\n\n"},
]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Returns a folder with a chat model and a task."""
    folder = tmp_path_factory.mktemp("home")
    write_model(folder)
    write_task(folder)
    return folder


def config(home: Path, **changes) -> c.Config:
    return dataclasses.replace(c.from_mapping(c.Config, get_config(str(home))), **changes)


def prompted(
    run: RunContext, model: c.Model, few_shot: int | None = None, thinking: ThinkingBlocks = IGNORE_THINKING
) -> PromptedModel:
    """Returns a model of the config with abstract parameters. If `few_shot` is None, its own number applies."""
    functions = run.models.functions(model, "float32")
    prompts = run.prompt_builder(prompt_settings(run.config, model, few_shot=few_shot))
    return PromptedModel("m", functions, functions.abstract(), run.models.tokenizer(model), prompts, thinking)


# The tokenizer


@pytest.mark.slow
def test_chat_ids_match_transformers(home):
    import transformers

    ours, oracle = Tokenizer.load(home / "model"), transformers.AutoTokenizer.from_pretrained(home / "model")
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


# The jobs


def test_local_and_remote_chat_models_get_the_same_turns(home, tmp_path):
    run = make_context(config(home), Workdir(str(tmp_path)))
    question, task = run.questions.by_id(("home.train",))["home/train/1"]
    source = run.config.rationales["sampled"]
    here = prompted(run, source.model, few_shot=2)
    server = c.Server(url="http://x/v1", model="m", kind="chat")
    remote = make_remote_model(run, c.ServerSource(source.questions, server, source.sampling, few_shot=2), 0, "r")
    messages = remote.request_body(question, task, 0)
    assert list(here.prompt(question, task)) == messages["messages"]
    assert [turn["role"] for turn in messages["messages"]] == ["user", "assistant"] * 2 + ["user"]
    assert messages["messages"][1]["content"] == "Rain is water. So the answer is: (a)"
    assert messages["messages"][4]["content"] == "train 1? (a) x (b) y"
    assert here.prompt_ids(question, task) == run.models.tokenizer(source.model).chat_ids(messages["messages"])
    # Without `chat` the prompt of the same model is one text.
    bare = prompted(run, c.Model(path=source.model.path), few_shot=2)
    assert bare.prompt(question, task).startswith("Q: What is wet? (a) rain (b) sand\nA: Rain is water.")
    with pytest.raises(InputError, match="there are 2, 3 are requested"):
        prompted(run, source.model, few_shot=3).prompt(question, task)


def test_system_turn_and_instruction_reach_local_and_remote_models(home, tmp_path):
    run = make_context(config(home), Workdir(str(tmp_path)))
    question, task = run.questions.by_id(("home.train",))["home/train/1"]
    wanted = {"system": "Be brief.", "instruction": "Choose {answers}."}
    server = c.Server(url="http://x/v1", model="m", kind="chat")
    here = c.ModelSource(("home.train",), c.Model(path=f"{home}/model", chat=True), few_shot=1, **wanted)
    there = c.ServerSource(("home.train",), server, few_shot=1, **wanted)
    local = run.prompt_builder(source_prompt_settings(run.config, here, "r")).prompt(question, task)
    remote = make_remote_model(run, there, 0, "r").request_body(question, task, 0)
    assert list(local) == remote["messages"]
    assert [turn["role"] for turn in local] == ["system", "user", "assistant", "user"]
    assert local[0]["content"] == "Be brief."
    assert local[1]["content"] == "What is wet? (a) rain (b) sand\nChoose (a) or (b)."
    assert local[3]["content"] == "train 1? (a) x (b) y\nChoose (a) or (b)."
    assert "stop" not in remote  # a turn ends by itself
    # By default, a chat without examples requests the answer sentence; other prompts have no instruction.
    bare = {"system": "", "instruction": "auto"}
    sentence = '"So the answer is: (a)" or "So the answer is: (b)"'
    requested = f"train 1? (a) x (b) y\n{REASON.format(answer_sentence=sentence)}"
    for source, expected in (
        (dataclasses.replace(here, **bare, few_shot=0), requested),
        (dataclasses.replace(there, **bare, few_shot=0), requested),
        (dataclasses.replace(there, **bare), "train 1? (a) x (b) y"),
        (c.ModelSource(model=c.Model(student="student")), "Q: train 1? (a) x (b) y\nA: "),
        (c.ServerSource(server=c.Server(url="http://x/v1", model="m")), "Q: train 1? (a) x (b) y\nA: "),
    ):
        prompt = run.prompt_builder(source_prompt_settings(run.config, source, "r")).prompt(question, task)
        assert (prompt if isinstance(prompt, str) else prompt[-1]["content"]) == expected


@pytest.mark.parametrize(
    ("text", "rationale", "answer"),
    [
        ("It rains.\n\nSo the answer is (a).", "It rains.", "(a)"),
        ("It rains. So the answer is: (b)", "It rains.", "(b)"),
        ("It rains.", None, None),
    ],
)
def test_answers_of_a_chat_model_are_read_in_its_own_wording(home, tmp_path, text, rationale, answer):
    run = make_context(config(home), Workdir(str(tmp_path)))
    question, task = run.questions.by_id(("home.train",))["home/train/1"]
    sample_ = Sample(question.id, 0, text, "stop", -1.0, 5, ())
    row = prompted(run, c.Model(path=f"{home}/model", chat=True)).respond(sample_, question, task, "greedy")
    assert (row.text, row.rationale, row.answer) == (text, rationale, answer)
    # An answer of a student must have the exact form of its training targets.
    row = prompted(run, c.Model(student="student"), few_shot=0).respond(sample_, question, task, "greedy")
    assert row.answer == (answer if ": " in text else None)


def test_answer_pattern_of_a_model_and_of_a_server(home, tmp_path):
    run = make_context(config(home), Workdir(str(tmp_path)))
    question, task = run.questions.by_id(("home.train",))["home/train/1"]
    pattern = r"\\boxed\{(.+?)\}"
    server = c.Server(url="http://x/v1", model="m")
    sources = [
        c.ModelSource(("home.train",), c.Model(path=f"{home}/model"), answer_pattern=pattern),
        c.ServerSource(("home.train",), server, answer_pattern=pattern),
        c.BatchSource(("home.train",), server, answer_pattern=pattern),
    ]
    for source in sources:
        prompts = run.prompt_builder(source_prompt_settings(run.config, source, "r"))
        assert prompts.parse("Is it \\boxed{A}? It rains. \\boxed{Y}", question, task) == (
            "Is it \\boxed{A}? It rains.",
            "(b)",
        )
        assert prompts.parse("It rains. So the answer is: (a)", question, task) == (None, None)


def test_identity_of_responses_names_what_is_requested(home, tmp_path):
    found = config(home)
    plain_model = c.ModelSource(("home.train",), c.Model(path=f"{home}/model"))
    variants = [plain_model] + [
        dataclasses.replace(plain_model, **{key: value})
        for key, value in (
            ("instruction", "Think."),
            ("answer_pattern", "is (.)"),
            ("model", found.rationales["sampled"].model),
        )
    ]
    identities = []
    for variant in variants:
        run = make_context(
            dataclasses.replace(found, rationales={**found.rationales, "r": variant}), Workdir(str(tmp_path))
        )
        identities.append(responses_identity(run, "r", ()))
    assert len({json.dumps(identity) for identity in identities}) == len(variants)
    # Work directories from before these fields existed still resume.
    assert not {"system", "instruction", "answer_pattern"} & identities[0]["spec"].keys()
    assert identities[0]["formats"] == {"home": "48a5ffdbd1010e71"}


def test_identity_of_a_model_names_its_weights_unless_the_manifest_is_older(home, tmp_path):
    run = make_context(config(home), Workdir(str(tmp_path)))
    identity = responses_identity(run, "sampled", ())
    assert identity["model"]["weights"] == "model.safetensors"
    older = identity | {"model": {key: value for key, value in identity["model"].items() if key != "weights"}}
    run.artefact("sample", "sampled").begin(older)
    assert responses_identity(run, "sampled", ()) == older


def test_student_trains_on_the_prompts_of_its_evaluation(home, tmp_path):
    run = make_context(config(home), Workdir(str(tmp_path)))
    assert uses_chat_template(run.config, c.Model(student="student"))
    assert not uses_chat_template(run.config, c.Model(path="x"))
    sample(run, "gold")
    build(run, "gold")
    student = prompted(run, c.Model(student="student"))
    questions = run.questions.by_id(("home.exemplars",))
    reader = CorpusReader(run.artefact("build", "gold").path, "train")
    examples = [reader[i] for i in range(len(reader))]
    assert {e.question_id: e.prompt for e in examples} == {
        id_: student.prompt_ids(*question_and_task) for id_, question_and_task in questions.items()
    }
    assert [turn["role"] for turn in student.prompt(*next(iter(questions.values())))] == ["user", "assistant", "user"]
    other = dataclasses.replace(run.config.students["student"], model=c.Model(path=f"{home}/model"))
    mixed = make_context(config(home, students={**run.config.students, "other": other}), Workdir(str(tmp_path)))
    with pytest.raises(InputError, match="student and other"):
        build(mixed, "gold")


def test_responses_in_chat_format_end_like_assistant_turns(home, tmp_path):
    corpus = c.Corpus(rationales=("gold",), format="chat")
    run = make_context(config(home, corpora={"gold": corpus}), Workdir(str(tmp_path)))
    sample(run, "gold")
    build(run, "gold")
    example = CorpusReader(run.artefact("build", "gold").path, "train")[0]
    tokenizer = run.models.tokenizer(c.Model(student="student"))
    turns = [
        {"role": "user", "content": EXEMPLARS[0][0]},
        {"role": "assistant", "content": f"{EXEMPLARS[0][1]} So the answer is: (a)"},
    ]
    whole = tokenizer.encode(render_without_generation_prompt(home / "model", turns))
    [response] = example.responses
    assert [*example.prompt, *response] == whole[: len(example.prompt) + len(response)]
    assert tokenizer.decode(whole[len(example.prompt) + len(response) :]) == "\n", "the end token is the last one"
    identity = json.loads((tmp_path / "corpora/gold/manifest.json").read_text())["identity"]
    assert identity["end_id"] == tokenizer.end_id


def render_without_generation_prompt(folder: Path, turns) -> str:
    import transformers

    return transformers.AutoTokenizer.from_pretrained(folder).apply_chat_template(turns, tokenize=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": c.Model(path="x"), "system": "Be brief."}, r"sampled\.system: only chats .* set model\.chat=True"),
        ({"instruction": "End with {answer}."}, r"sampled\.instruction: unknown field \{answer\}; did you mean"),
    ],
)
def test_invalid_chat_settings_are_refused(home, changes, message):
    found = config(home)
    source = dataclasses.replace(found.rationales["sampled"], **changes)
    with pytest.raises(InputError, match=message):
        chain(dataclasses.replace(found, rationales={**found.rationales, "sampled": source}))


# Thinking blocks; those of remote models are tested in servers/test_live.py.

DEEP = "<think>\nWet.\n\nOr dry?</think>\n\nIt rains. So the answer is: (a)\n\nQ: more"
RESPONSE = "It rains. So the answer is: (a)"


@pytest.mark.parametrize(
    ("text", "think", "expected"),
    [
        (DEEP, "strip", (RESPONSE, "It rains.", "(a)", "stop")),
        (DEEP, "rationale", (RESPONSE, "Wet.\n\nOr dry?", "(a)", "stop")),
        (DEEP, "keep", (DEEP, None, None, "length")),
        ("<think>Wet", "strip", ("<think>Wet", None, None, "length")),
        (f"{RESPONSE}\n\nQ: more", "strip", (RESPONSE, "It rains.", "(a)", "stop")),
        ("\nIt rains. So", None, ("\nIt rains. So", None, None, "length")),
    ],
)
def test_thinking_blocks_of_a_local_model(home, tmp_path, text, think, expected):
    run = make_context(config(home), Workdir(str(tmp_path)))
    question, task = run.questions.by_id(("home.train",))["home/train/1"]
    spec = c.ModelSource(think=think or "")
    model = prompted(run, c.Model(path=f"{home}/model"), thinking=ThinkingBlocks.of(spec, "config.r", "m"))
    assert model.stop_strings({question.id: (question, task)}) == (() if think else ("\n\n",))
    row = model.respond(Sample(question.id, 0, text, "length", -1.0, 5, ()), question, task, "greedy")
    assert (row.text, row.rationale, row.answer, row.finish_reason) == expected


def test_response_that_is_only_thinking(home, tmp_path):
    run = make_context(config(home), Workdir(str(tmp_path)))
    question, task = run.questions.by_id(("home.train",))["home/train/1"]
    thinking = ThinkingBlocks.of(c.ModelSource(), "config.rationales.r", "m")
    model = prompted(run, c.Model(path=f"{home}/model"), thinking=thinking)
    sample_ = Sample(question.id, 0, "<think>", "stop", -1.0, 5, ())
    with pytest.raises(InputError, match=r"^config\.rationales\.r\.think: m generates <think> blocks; .*rationale$"):
        model.respond(sample_, question, task, "greedy")
    # When a student is evaluated, its response is unchanged.
    assert prompted(run, c.Model(path=f"{home}/model")).respond(sample_, question, task, "greedy").text == "<think>"


# The exported folder


@pytest.mark.slow
def test_exported_chat_model_agrees_with_pytorch(home):
    pytest.importorskip("torch")
    found, params = load_pretrained(home / "model")
    tokenizer = Tokenizer.load(home / "model")
    assert tokenizer.eos_ids == (2, 4)
    model = registry.build(found, Precision("float32"))
    checked = verify_export(
        home / "model", model, params, tokenizer, [CONVERSATION, CONVERSATION[:1]], max_new_tokens=4
    )
    assert checked["prompts"] == 2


def test_model_card_shows_chat_turns():
    card = model_card("s", kind="decoder", about="", prompt=tuple(CONVERSATION[:1]), results={}, facts={})
    [line] = [line for line in card.splitlines() if line.startswith("inputs = ")]
    assert line == (
        "inputs = tokenizer.apply_chat_template([{'role': 'user', 'content': 'Q: wet?\\nA: '}], "
        'add_generation_prompt=True, return_dict=True, return_tensors="pt")'
    )


# The command line


@pytest.mark.slow
def test_chat_model_on_the_command_line(home, tmp_path):
    flags = f"--config=tests/configs/chat.py:{home}", f"--workdir={tmp_path}"
    done = run_cli(*flags, "--jobs=sample,build")
    assert done.returncode == 0, done.stderr
    rows = list(read_responses(sorted(tmp_path.glob("rationales/sampled/responses-*.jsonl"))))
    assert {row.key for row in rows} == {(f"home/train/{i}", k) for i in range(NUM_QUESTIONS) for k in range(2)}
    model = json.loads((tmp_path / "rationales/sampled/manifest.json").read_text())["identity"]["model"]
    assert model["config"]["chat"]
    assert model["chat"]
    assert model["eos_ids"] == [2, 4]
    found = config(home)
    source = dataclasses.replace(found.rationales["sampled"], model=c.Model(path=f"{home}/model"))
    plain = dataclasses.replace(found, rationales={**found.rationales, "sampled": source})
    with pytest.raises(InputError, match="chat was True"):
        sample(make_context(plain, Workdir(str(tmp_path))), "sampled")
