"""Chat models in the jobs: the same turns for local and remote models, in training as in evaluation."""

import dataclasses
import json
from pathlib import Path

import pytest

from scotd_jax import config as c
from scotd_jax.corpus.reader import CorpusReader
from scotd_jax.errors import InputError
from scotd_jax.jobs.build import build
from scotd_jax.jobs.context import make_context
from scotd_jax.jobs.generation.prompting import source_prompt_settings, uses_chat_template
from scotd_jax.jobs.generation.servers.remote_model import make_remote_model
from scotd_jax.jobs.graph import chain
from scotd_jax.jobs.preparation.manifests import responses_identity
from scotd_jax.jobs.sample import sample
from scotd_jax.rationales.store import read_responses
from scotd_jax.sampling.requests import Sample
from scotd_jax.tasks.instructions import REASON
from scotd_jax.workdir import Workdir
from tests.helpers.chat_model import EXEMPLARS, NUM_QUESTIONS, chat_config, prompted
from tests.helpers.cli import run_cli

pytestmark = pytest.mark.usefixtures("fast_compilation")


def test_local_and_remote_chat_models_get_the_same_turns(chat_home, tmp_path):
    run = make_context(chat_config(chat_home), Workdir(str(tmp_path)))
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


def test_system_turn_and_instruction_reach_local_and_remote_models(chat_home, tmp_path):
    run = make_context(chat_config(chat_home), Workdir(str(tmp_path)))
    question, task = run.questions.by_id(("home.train",))["home/train/1"]
    wanted = {"system": "Be brief.", "instruction": "Choose {answers}."}
    server = c.Server(url="http://x/v1", model="m", kind="chat")
    here = c.ModelSource(("home.train",), c.Model(path=f"{chat_home}/model", chat=True), few_shot=1, **wanted)
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
def test_answers_of_a_chat_model_are_read_in_its_own_wording(chat_home, tmp_path, text, rationale, answer):
    run = make_context(chat_config(chat_home), Workdir(str(tmp_path)))
    question, task = run.questions.by_id(("home.train",))["home/train/1"]
    sample_ = Sample(question.id, 0, text, "stop", -1.0, 5, ())
    row = prompted(run, c.Model(path=f"{chat_home}/model", chat=True)).respond(sample_, question, task, "greedy")
    assert (row.text, row.rationale, row.answer) == (text, rationale, answer)
    # An answer of a student must have the exact form of its training targets.
    row = prompted(run, c.Model(student="student"), few_shot=0).respond(sample_, question, task, "greedy")
    assert row.answer == (answer if ": " in text else None)


def test_answer_pattern_of_a_model_and_of_a_server(chat_home, tmp_path):
    run = make_context(chat_config(chat_home), Workdir(str(tmp_path)))
    question, task = run.questions.by_id(("home.train",))["home/train/1"]
    pattern = r"\\boxed\{(.+?)\}"
    server = c.Server(url="http://x/v1", model="m")
    sources = [
        c.ModelSource(("home.train",), c.Model(path=f"{chat_home}/model"), answer_pattern=pattern),
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


def test_identity_of_responses_names_what_is_requested(chat_home, tmp_path):
    found = chat_config(chat_home)
    plain_model = c.ModelSource(("home.train",), c.Model(path=f"{chat_home}/model"))
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


def test_identity_of_a_model_names_its_weights_unless_the_manifest_is_older(chat_home, tmp_path):
    run = make_context(chat_config(chat_home), Workdir(str(tmp_path)))
    identity = responses_identity(run, "sampled", ())
    assert identity["model"]["weights"] == "model.safetensors"
    older = identity | {"model": {key: value for key, value in identity["model"].items() if key != "weights"}}
    run.artefact("sample", "sampled").begin(older)
    assert responses_identity(run, "sampled", ()) == older


def test_student_trains_on_the_prompts_of_its_evaluation(chat_home, tmp_path):
    run = make_context(chat_config(chat_home), Workdir(str(tmp_path)))
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
    other = dataclasses.replace(run.config.students["student"], model=c.Model(path=f"{chat_home}/model"))
    mixed = make_context(
        chat_config(chat_home, students={**run.config.students, "other": other}), Workdir(str(tmp_path))
    )
    with pytest.raises(InputError, match="student and other"):
        build(mixed, "gold")


def test_responses_in_chat_format_end_like_assistant_turns(chat_home, tmp_path):
    corpus = c.Corpus(rationales=("gold",), format="chat")
    run = make_context(chat_config(chat_home, corpora={"gold": corpus}), Workdir(str(tmp_path)))
    sample(run, "gold")
    build(run, "gold")
    example = CorpusReader(run.artefact("build", "gold").path, "train")[0]
    tokenizer = run.models.tokenizer(c.Model(student="student"))
    turns = [
        {"role": "user", "content": EXEMPLARS[0][0]},
        {"role": "assistant", "content": f"{EXEMPLARS[0][1]} So the answer is: (a)"},
    ]
    whole = tokenizer.encode(render_without_generation_prompt(chat_home / "model", turns))
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
def test_invalid_chat_settings_are_refused(chat_home, changes, message):
    found = chat_config(chat_home)
    source = dataclasses.replace(found.rationales["sampled"], **changes)
    with pytest.raises(InputError, match=message):
        chain(dataclasses.replace(found, rationales={**found.rationales, "sampled": source}))


@pytest.mark.slow
def test_chat_model_on_the_command_line(chat_home, tmp_path):
    flags = f"--config=tests/configs/chat.py:{chat_home}", f"--workdir={tmp_path}"
    done = run_cli(*flags, "--jobs=sample,build", fast_compilation=True)
    assert done.returncode == 0, done.stderr
    rows = list(read_responses(sorted(tmp_path.glob("rationales/sampled/responses-*.jsonl"))))
    assert {row.key for row in rows} == {(f"home/train/{i}", k) for i in range(NUM_QUESTIONS) for k in range(2)}
    model = json.loads((tmp_path / "rationales/sampled/manifest.json").read_text())["identity"]["model"]
    assert model["config"]["chat"]
    assert model["chat"]
    assert model["eos_ids"] == [2, 4]
    found = chat_config(chat_home)
    source = dataclasses.replace(found.rationales["sampled"], model=c.Model(path=f"{chat_home}/model"))
    plain = dataclasses.replace(found, rationales={**found.rationales, "sampled": source})
    with pytest.raises(InputError, match="chat was True"):
        sample(make_context(plain, Workdir(str(tmp_path))), "sampled")
