"""Named students: every config of the papers takes each of them, with its prompt format, and `runlocal` reduces it."""

import dataclasses
import json
from pathlib import Path

import pytest

from configs import common, runlocal
from scotd_jax import config as c
from scotd_jax.corpus.reader import CorpusReader
from scotd_jax.dry_run import preview
from scotd_jax.errors import InputError
from scotd_jax.hub.hub_names import CHAT_MODELS, HUB_NAMES, preset_name, short_name
from scotd_jax.jobs.build import build
from scotd_jax.jobs.context import make_context
from scotd_jax.jobs.evaluate import evaluate
from scotd_jax.jobs.export import export
from scotd_jax.jobs.graph import chain
from scotd_jax.jobs.model_loading import model_config
from scotd_jax.jobs.sample import sample
from scotd_jax.jobs.train import train
from scotd_jax.models.registry import PRESETS
from scotd_jax.workdir import Workdir
from tests.helpers.exhaustive import repeat_for

pytestmark = pytest.mark.usefixtures("fast_compilation")

PAPERS = ("scotd", "imdb", "transfer", "step_by_step", "scicot", "pretrained")
DECODERS = [name for name in HUB_NAMES if PRESETS[preset_name(name)].kind == "decoder"]
# One student per family, as text and as chat.
FAMILIES = ["smollm2-135m", "smollm2-135m-instruct", "qwen2.5-0.5b", "qwen3-0.6b", "smollm3-3b-base", "gemma-3-270m-it"]
TRAINING = c.Training(steps=2, batch_size=8, optimizer=c.Optimizer(warmup_steps=1), startup_check=False)
OTHERS = ["opt-125m", "opt-350m", "t5-base", "t5-v1.1-base", "flan-t5-small"]


def students_of(name: str) -> list[str]:
    """Returns all students for the config `pretrained`; one per family for the others, to save time."""
    return [*OTHERS, *(DECODERS if name == "pretrained" else FAMILIES)]


def load(name: str, settings: str) -> c.Config:
    return c.from_mapping(c.Config, c.sibling(common.__file__, name).get_config(settings))


@pytest.mark.parametrize("name", PAPERS)
def test_every_config_takes_every_named_student(name):
    for student in students_of(name):
        config = load(name, f"student={student}")
        chain(config)
        [format_name] = {corpus.format for corpus in config.corpora.values()}
        assert format_name == ("chat" if student in CHAT_MODELS else "t5" if "t5" in student else "scotd")
        models = [spec.model for spec in config.students.values() if not spec.model.student]
        assert {(model.path, model.chat) for model in models} == {(HUB_NAMES[student], student in CHAT_MODELS)}


@pytest.mark.parametrize("name", PAPERS)
def test_runlocal_keeps_the_architecture_of_the_student(name):
    for student in students_of(name):
        config = load(name, f"student={student},runlocal")
        preset = PRESETS[preset_name(student)]
        sizes = runlocal.TINY[preset.kind]
        for key, spec in config.students.items():
            if key != runlocal.LOCAL_TEACHER and not spec.model.student:
                assert model_config(config, spec.model) == dataclasses.replace(preset, **sizes)
                assert spec.model.chat == (student in CHAT_MODELS)


@pytest.mark.parametrize("student", FAMILIES)
def test_dry_run_refuses_nothing(student, tmp_path):
    config = load("pretrained", f"student={student},runlocal")
    training = c.Training(batch_size=8)  # tests have eight devices
    students = {name: dataclasses.replace(spec, training=training) for name, spec in config.students.items()}
    config = dataclasses.replace(config, students=students)
    run = preview(config, str(tmp_path), chain(config), [], skip_bad=False)
    assert {step.state for step in run.steps} == {"run"}, run.steps
    assert not run.downloads


@pytest.mark.slow
@pytest.mark.parametrize(
    ("student", "rank"),  # both SmolLM2 models have the same architecture
    repeat_for(
        [(name, 2 if name.startswith(("qwen", "gemma")) else 0) for name in FAMILIES[1:]], kept=[("gemma-3-270m-it", 2)]
    ),
)
def test_tiny_student_of_each_family_trains_evaluates_and_exports(student, rank, tmp_path):
    """The export job compares logits and generated text with PyTorch, if it is installed. `rank` is that of LoRA."""
    reduced = load("pretrained", f"task=obqa,arms=n1,student={student},runlocal")
    training = dataclasses.replace(TRAINING, lora=c.LoRA(rank))
    spec = dataclasses.replace(reduced.students["n1"], training=training, dev_sets=())
    sampling = c.Sampling(temperature=0.0, max_new_tokens=8, batch_size=8, bucket=64)
    config = dataclasses.replace(
        reduced,
        rationales={"published": c.TaskSource(("obqa.exemplars",))},
        corpora={"n1": dataclasses.replace(reduced.corpora["n1"], questions=())},
        students={"n1": spec},
        evals={},
        evaluation=c.Evaluation(sampling=sampling),
    )
    run = make_context(config, Workdir(str(tmp_path)))
    for job, name in ((sample, "published"), (build, "n1"), (train, "n1"), (evaluate, "n1")):
        job(run, name)
    if not spec.export:
        assert student.startswith("qwen2"), "whose folders cannot have a word-level tokenizer"
        return
    export(run, "n1")
    manifest = json.loads((tmp_path / "exports/n1/manifest.json").read_text())
    assert manifest["counts"]["compared_with_torch"]
    assert manifest["counts"]["tokens"] >= 4
    example = CorpusReader(tmp_path / "corpora/n1", "train")[0]
    settings = json.loads((tmp_path / "exports/n1/generation_config.json").read_text())
    assert example.responses[0][-1] == settings["eos_token_id"], "generation stops where training targets end"
    tokenizer = run.models.tokenizer(spec.model)
    starts = {"chat": tokenizer.bos_id, "text": tokenizer.encode("Question:")[0]}
    assert example.prompt[0] == starts["chat" if student in CHAT_MODELS else "text"]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ("student=smollm2-135m-instruct", ("chat", True)),
        ("student=smollm2-135m-instruct,chat=off", ("scotd", False)),
        ("student=smollm2-135m,chat=on", ("chat", True)),
        ("student=HuggingFaceTB/SmolLM2-135M-Instruct@main", ("chat", True)),
        ("student=smollm2-135m-instruct,weights=checkpoints", ("chat", True)),
        ("student=google/flan-t5-small", ("t5", False)),
        ("student=models/mine", ("scotd", False)),
    ],
)
def test_prompt_format_and_chat_follow_the_student(settings, expected):
    config = load("pretrained", settings)
    found = {(config.corpora[spec.corpus].format, spec.model.chat) for spec in config.students.values()}
    assert found == {expected}


@pytest.mark.parametrize("student", DECODERS)
def test_chat_can_be_set_for_every_decoder(student):
    for chat, expected in (("on", ("chat", True)), ("off", ("scotd", False))):
        config = load("pretrained", f"student={student},chat={chat},arms=n1")
        chain(config)
        assert (config.corpora["n1"].format, config.students["n1"].model.chat) == expected


def test_chat_teachers_are_prompted_as_chats():
    config = load("scotd", "student=opt-125m,teacher=qwen3-1.7b")
    source = config.rationales["sampled"]
    assert isinstance(source, c.ModelSource)
    assert (source.model.chat, source.think) == (True, "strip")
    assert not any(spec.model.chat for spec in config.students.values())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("chat=yes", "chat=yes: expected auto, on, off"),
        ("student=smollm2-135", "did you mean 'smollm2-135m'"),
        ("student=models/mine,runlocal", "runlocal: the architecture of student 'models/mine' is unknown"),
        ("task=arc_easy", "task=arc_easy: has no published rationales"),
        ("arms=label+n30", "arms=label.n30: 'n30' is no arm"),
        ("selections=divers", "selections=divers: 'divers' is unknown; did you mean 'diverse'"),
        ("arms=n5,selections=rank_surprisal", "'rank_surprisal' needs the student of arm n1; add it to arms"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        load("pretrained", settings)


def test_selections_are_arms_at_an_equal_budget_scored_by_the_first_student_of_one_chain():
    config = load("pretrained", "task=obqa,selections=random+rank_surprisal,budget=5,seeds=2,arms=n1+n22")
    assert {student.arm for student in config.students.values()} == {
        "SCoTD, N = 1",
        "SCoTD, N = 22",
        "5 of 22, random",
        "5 of 22, rank_surprisal",
    }
    assert {config.corpora[name].cap for name in ("random", "rank_surprisal")} == {5}
    assert [name for name, student in config.students.items() if student.export] == ["n22_0"]
    steps = [str(step) for step in chain(config)]
    assert steps.index("train n1_0") < steps.index("score n1_0") < steps.index("build rank_surprisal")


def test_short_and_preset_names():
    assert all(preset_name(name) in PRESETS for name in HUB_NAMES)
    names = {"t5-base": "t5-base", "Qwen/Qwen3-0.6B-Base@x": "qwen3-0.6b", "google/gemma-3-1b-pt": "gemma-3-1b"}
    assert {name: preset_name(name) for name in names} == names
    assert short_name("a/b/mine") == "mine"
    assert {"smollm3-3b", "qwen3-0.6b", "gemma-3-1b-it", "tinyllama-1.1b-chat"} <= CHAT_MODELS
    assert not CHAT_MODELS & {"smollm3-3b-base", "qwen3-0.6b-base", "gemma-3-1b", "tinyllama-1.1b", "t5-base"}


@pytest.mark.exhaustive
def test_published_rationales_join_their_questions(shared_data: Path, tmp_path):
    """The training questions of QuaRel come from the rationale file, those of the other tasks from their own files."""
    for task, questions in (("quarel", 1930), ("obqa", 4957), ("csqa", 9741)):
        config = load("pretrained", f"task={task},data={shared_data},student=opt-125m")
        run = make_context(config, Workdir(str(tmp_path / task)))
        [train_set] = {name.partition("@")[0] for name in config.corpora["label"].questions}
        assert len(run.questions.questions(train_set)) == questions
        source = config.rationales["published"]
        assert isinstance(source, c.FileSource)
        assert list(Path("/").glob(source.path.lstrip("/"))), source.path
    sample(run, "teacher_reported")
    evaluate(run, "teacher")
    found = json.loads((run.artefact("evaluate", "teacher").path / "results.json").read_text())["sets"]["csqa.dev"]
    assert (found["n"], found["accuracy"]) == (1221, pytest.approx(0.788, abs=1e-3)), "PaLM 540B"
