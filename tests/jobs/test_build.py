"""Tests of the build job: contents and order of a corpus for any number of processes, hosts and shards."""

import dataclasses
import json
import subprocess
import sys
from collections import defaultdict

import pytest

from scotd_jax import config as c
from scotd_jax.corpus import shard_building
from scotd_jax.corpus.batching.loader import open_batches
from scotd_jax.corpus.reader import CorpusReader
from scotd_jax.errors import InputError
from scotd_jax.jobs.build import build
from scotd_jax.jobs.context import make_context
from scotd_jax.jobs.preparation import manifests
from scotd_jax.rationales.controls import apply_control
from scotd_jax.records import Question
from tests.helpers.corpora import built, expected, files, folder, make_run, question, responses, write_questions

QUESTIONS = [question(i) for i in range(11)]
ROWS = responses(QUESTIONS, 6)


@pytest.fixture
def home(tmp_path):
    write_questions(tmp_path / "t", train=QUESTIONS, dev=[question(i, "dev") for i in range(3)])
    return tmp_path


def right(rows):
    """Returns the correct responses by question id."""
    kept = defaultdict(list)
    for row in rows:
        if row.correct:
            kept[row.question_id].append(row)
    return kept


def ledger(run):
    return json.loads((folder(run) / "ledger.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["scotd", "label", "teacher_label", "step_by_step", "rationale", "infer", "text"])
@pytest.mark.parametrize("balance", ["questions", "responses"])
def test_build_encodes_the_kept_responses_by_the_recipe(home, recipe, balance):
    run = make_run(home, c.Corpus(recipe=recipe, balance=balance), {"sampled": ROWS})
    assert built(run) == expected(run, right(ROWS), flat=balance == "responses")
    report = ledger(run)
    assert report["total"] == len(ROWS) == 66
    assert report["bins"]["wrong"] == sum(not row.correct for row in ROWS)
    manifest = run.artefact("build", "c").manifest()
    assert manifest["complete"]
    assert not (folder(run) / "shards").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "kind"), [("infer", "own"), ("scotd", "other"), ("step_by_step", "shuffled")])
def test_build_bytes_do_not_depend_on_processes_and_hosts(home, recipe, kind, monkeypatch):
    def run(name, **fields):
        part = home / name
        part.mkdir()
        (part / "t").symlink_to(home / "t")
        return make_run(part, c.Corpus(recipe=recipe, rationale_control=kind, **fields), {"sampled": ROWS})

    one, several, hosts = run("one"), run("several", processes=2), run("hosts")
    build(one, "c")
    if kind == "own":  # in one case only, since processes take seconds to start
        build(several, "c")
        assert files(several) == files(one)
    # Host 1 of 2 builds before host 0. They do not wait for each other here; host 0 merges.
    for index in (1, 0):
        monkeypatch.setattr("jax.process_count", lambda: 2)
        monkeypatch.setattr("jax.process_index", lambda index=index: index)
        monkeypatch.setattr("scotd_jax.distributed.hosts.sync_processes", lambda where: None)
        build(hosts, "c")
    assert files(hosts) == files(one)


def test_build_order_does_not_depend_on_the_number_of_shards(home):
    found = []
    for count in (1, 3, 50):
        run = make_run(home, c.Corpus(shards=count, rationale_control="other"), {"sampled": ROWS})
        found.append(built(run))
        assert len(list(folder(run).glob("train-*.tfrecord"))) == min(count, 11)
        run.artefact("build", "c").remove()
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("kind", ["shuffled", "other", "empty"])
@pytest.mark.parametrize("recipe", ["scotd", "infer"])
def test_build_controls_change_rationales_only(home, kind, recipe):
    run = make_run(home, c.Corpus(recipe=recipe, rationale_control=kind, n=4), {"sampled": ROWS})
    groups = [(q, right(r for r in ROWS if r.sample_index < 4)[q.id]) for q in QUESTIONS]
    assert built(run) == expected(run, {q.id: rows for q, rows in apply_control(kind, groups)})
    assert ledger(run)["bins"]["kept"] == sum(len(rows) for _, rows in groups)


def test_build_drops_responses_that_a_control_makes_too_long(home):
    own = make_run(home, c.Corpus(), {"sampled": ROWS})
    longest = max(len(r) for e in built(own)["train"] for r in e.responses)
    own.artefact("build", "c").remove()
    limited = make_run(home, c.Corpus(rationale_control="other", max_response_tokens=longest - 1), {"sampled": ROWS})
    parts = built(limited)
    assert max(len(r) for e in parts["train"] for r in e.responses) <= longest - 1
    report = ledger(limited)
    stages = {stage["stage"]: stage["dropped"] for stage in report["stages"]}
    assert report["bins"]["too_long"] == stages["tokens"] + stages["rationale"]
    assert sum(report["bins"].values()) == report["total"]


def test_build_refuses_controls_without_rationales(home):
    run = make_run(home, c.Corpus(recipe="teacher_label", rationale_control="shuffled"), {"sampled": ROWS})
    with pytest.raises(
        InputError, match="config.corpora.c.rationale_control: recipe 'teacher_label' uses no rationale"
    ):
        build(run, "c")
    alone = make_run(home, c.Corpus(rationale_control="other"), {"one": ROWS[:2]})
    with pytest.raises(InputError, match="rationale_control='other' needs another question"):
        build(alone, "c")


def test_sample_numbers_continue_across_sets(home):
    first = [row for row in ROWS if row.sample_index < 2 and row.question_id != QUESTIONS[3].id]
    second = responses(QUESTIONS[:5], 3, "other")
    run = make_run(home, c.Corpus(n=4, keep="all"), {"first": first, "second": second})
    by_question = {example.question_id: example.sample_index for example in built(run)["train"]}
    # Two of the first set and the first two of the second; question 3 is in the second set only.
    assert by_question == {q.id: [0, 1, 2, 3] for q in QUESTIONS[:5]} | {QUESTIONS[3].id: [0, 1, 2]} | {
        q.id: [0, 1] for q in QUESTIONS[5:]
    }
    report = ledger(run)
    assert {source: facts["total"] for source, facts in report["sources"].items()} == {"m": 20, "other": 15}
    assert report["bins"]["not_selected"] == 4
    assert report["total"] == 35


def test_build_counts_responses_to_other_questions(home):
    write_questions(home / "t", train=QUESTIONS, few=QUESTIONS[4:6])
    run = make_run(home, c.Corpus(questions=("t.few",)), {"sampled": ROWS})
    assert {example.question_id for example in built(run)["train"]} == {q.id for q in QUESTIONS[4:6]}
    report = ledger(run)
    assert report["total"] == 66
    assert report["bins"]["not_selected"] == 54
    assert report["stages"][0] == {"stage": "questions", "in": 66, "dropped": 54, "out": 12}


def test_interrupted_build_resumes_with_the_missing_shards(home, monkeypatch):
    run = make_run(home, c.Corpus(shards=3), {"sampled": ROWS})
    build(run, "c")
    whole = files(run)
    run.artefact("build", "c").remove()
    build_shard = shard_building.build_shard
    done = []

    def fail_at_third_shard(plan, shard):
        if len(done) == 2:
            raise InputError("the disk is full")
        build_shard(plan, shard)
        done.append(shard)

    monkeypatch.setattr(shard_building, "build_shard", fail_at_third_shard)
    with pytest.raises(InputError, match="the disk is full"):
        build(run, "c")
    with pytest.raises(InputError, match="not built"):
        CorpusReader(folder(run), "train")

    def record(plan, shard):
        build_shard(plan, shard)
        done.append(shard)

    monkeypatch.setattr(shard_building, "build_shard", record)
    build(run, "c")
    assert done == [0, 1, 2]
    assert files(run) == whole
    build(run, "c")
    assert done == [0, 1, 2]


def test_number_of_processes_is_not_part_of_the_identity(home):
    run = make_run(home, c.Corpus(), {"sampled": ROWS})
    build(run, "c")
    digest = run.artefact("build", "c").digest
    build(make_run(home, c.Corpus(processes=7), {"sampled": ROWS}), "c")
    assert run.artefact("build", "c").digest == digest


def test_prompt_format_of_a_task_is_part_of_the_identity(home):
    run = make_run(home, c.Corpus(), {"sampled": ROWS})
    build(run, "c")
    recorded = run.artefact("build", "c").manifest()["identity"]["formats"]
    assert recorded == manifests.formats_identity(run, ("t.train",))
    task = dataclasses.replace(run.config.tasks["t"], format="t5")
    other = make_context(dataclasses.replace(run.config, tasks={"t": task}), run.workdir)
    assert recorded != manifests.formats_identity(other, ("t.train",))


def without_rationales(rows):
    return [dataclasses.replace(row, text=row.answer, rationale=None) for row in rows]


@pytest.mark.slow
def test_responses_without_a_rationale_are_dropped_where_the_recipe_needs_it(home, capfd):
    rows = [*without_rationales(ROWS[:20]), *ROWS[20:]]
    run = make_run(home, c.Corpus(), {"sampled": rows})
    assert built(run) == expected(run, right(ROWS[20:]))
    assert ledger(run)["bins"]["no_rationale"] == 20
    lines = capfd.readouterr().err
    assert "35 of 66 responses kept (11 wrong, 20 no_rationale)" in lines
    for recipe in ("label", "teacher_label", "text", "infer"):
        run.artefact("build", "c").remove()
        run = make_run(home, c.Corpus(recipe=recipe), {"sampled": rows})
        assert built(run) == expected(run, right(rows))


@pytest.mark.parametrize("recipe", ["scotd", "answer_first", "rationale", "step_by_step"])
def test_corpus_made_mostly_of_bare_answers_is_refused_and_leaves_nothing(home, recipe):
    rows = [*without_rationales(ROWS[:34]), *ROWS[34:]]
    run = make_run(home, c.Corpus(recipe=recipe), {"sampled": rows})
    with pytest.raises(
        InputError, match="34 of 66 responses have no rationale, but the recipe trains on it.*answer_pattern"
    ):
        build(run, "c")
    assert not folder(run).exists()
    build(make_run(home, c.Corpus(recipe="label"), {"sampled": rows}), "c")  # the repaired config is not refused


def test_truncated_responses_are_stated_with_keep_all(home, capfd):
    rows = [dataclasses.replace(row, finish_reason="length") if row.sample_index == 5 else row for row in ROWS]
    build(make_run(home, c.Corpus(keep="all"), {"sampled": rows}), "c")
    assert "55 of 66 responses kept (11 truncated)" in capfd.readouterr().err


def test_empty_corpus_error_names_the_bins(home):
    run = make_run(home, c.Corpus(keep="wrong", max_response_tokens=1), {"sampled": ROWS})
    with pytest.raises(InputError, match=r"corpus is empty.*0 of 66 responses kept \(16 too_long, 50 not_selected\)"):
        build(run, "c")
    assert not folder(run).exists()
    run = make_run(home, c.Corpus(recipe="label", questions=("t.train",), max_prompt_tokens=1), {})
    with pytest.raises(InputError, match="corpus is empty.*11 too_long"):
        build(run, "c")


def test_prompt_limit_applies_to_label_corpora(home):
    long = Question("t/train/long", "t", "train", "w " * 40, ("yes", "no"), "yes")
    write_questions(home / "t", train=[*QUESTIONS, long])
    run = make_run(home, c.Corpus(recipe="label", questions=("t.train",), max_prompt_tokens=30), {})
    assert {example.question_id for example in built(run)["train"]} == {q.id for q in QUESTIONS}
    assert run.artefact("build", "c").manifest()["counts"]["left_out"] == {"too_long": 1}


def test_parts_draw_the_same_question_and_sample_at_the_same_step(home):
    options = {"batch_size": 4, "group_size": 2, "start_token": None, "seed": 3}
    for balance in ("questions", "responses"):
        recipe = c.Recipe(
            {"explain": c.Part("{question}", "{rationale}"), "infer": c.Part("{rationale}", "{question}")}
        )
        run = make_run(home, c.Corpus(recipe="both", balance=balance), {"sampled": ROWS}, {"both": recipe})
        run.artefact("build", "c").remove()
        parts = built(run)
        batches = open_batches(folder(run), ("explain", "infer"), **options)
        samples = {tuple(e.prompt[1:]): (e.question_id, e.sample_index[0]) for e in parts["infer"]}
        for step in range(8):
            explain, infer = batches[step]["explain"], batches[step]["infer"]
            assert explain["targets"].shape[1] == (2 if balance == "questions" else 1)
            assert infer["targets"].shape[1] == 1  # one prompt, one response
            for row in range(4):
                targets = explain["targets"][row, 0][explain["weights"][row, 0] > 0].tolist()
                prompt = infer["prompt"][row][infer["prompt_mask"][row]].tolist()[1:]
                assert [*prompt, int(infer["inputs"][row, 0, 0])] == targets
                assert tuple(targets) in samples


def test_worker_processes_do_not_import_jax():
    code = "import sys, scotd_jax.corpus.shard_building; print('jax' in sys.modules, 'transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "fields"), [("scotd", {}), ("step_by_step", {"rationale_control": "shuffled"})])
def test_max_responses_selects_at_random_from_the_responses_that_pass(home, recipe, fields):
    def run(max_responses: int):
        part = home / str(max_responses)
        part.mkdir()
        (part / "t").symlink_to(home / "t")
        corpus = c.Corpus(recipe=recipe, shards=3, max_responses=max_responses, **fields)
        return make_run(part, corpus, {"sampled": ROWS})

    def samples(records) -> set[tuple[str, int]]:
        *_, last = records.values()  # of step_by_step, the part "explain"
        return {(example.question_id, k) for example in last for k in example.sample_index}

    runs = {size: run(size) for size in (0, 30, 12, 99)}
    found = {size: built(of_size) for size, of_size in runs.items()}
    passed = {(row.question_id, row.sample_index) for row in ROWS if row.correct}
    assert samples(found[0]) == samples(found[99]) == passed
    assert samples(found[12]) < samples(found[30]) < passed
    assert (len(samples(found[12])), len(samples(found[30]))) == (12, 30)
    report = ledger(runs[30])
    assert report["bins"]["kept"] == report["sources"]["m"]["bins"]["kept"] == 30
    assert report["bins"]["not_selected"] == len(passed) - 30
    assert report["stages"][-1] == {"stage": "max_responses", "in": len(passed), "dropped": len(passed) - 30, "out": 30}
    complete = {example.question_id: example for example in list(found[0].values())[-1]}
    for records in found[30].values():
        assert {example.question_id for example in records} == {id_ for id_, _ in samples(found[30])}
    for example in list(found[30].values())[-1]:
        assert complete[example.question_id].select_samples(example.sample_index) == example


def test_a_corpus_without_max_responses_keeps_its_identity(home):
    run = make_run(home, c.Corpus(), {"sampled": ROWS})
    spec = manifests.encoding_identity(run, "c", run.config.students["s"].model)["spec"]
    assert not spec.keys() & {"max_responses", "mixture"}


def test_open_ended_caps_compare_all_questions_of_the_corpus(home):
    # The more words a question's rationales have, the more pairs of words: question 0 has the fewest.
    rows = [
        dataclasses.replace(row, correct=True, rationale=f"{row.rationale} " + " ".join(f"w{i}{k}" for k in range(i)))
        for i, question_ in enumerate(QUESTIONS[:10])
        for row in responses([question_], 6)
    ]
    run = make_run(home, c.Corpus(cap=3, cap_by="open_ended", shards=3), {"sampled": rows})
    kept = {example.question_id: example.sample_index for example in built(run)["train"]}
    numbers = [len(kept[question_.id]) for question_ in QUESTIONS[:10]]
    assert numbers == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert all(samples == list(range(len(samples))) for samples in kept.values())
    assert ledger(run)["bins"]["over_cap"] == 60 - 30


def test_teachers_are_mixed_and_a_single_one_is_refused(home):
    corpus = c.Corpus(cap=2, cap_by="teacher_mix", keep="all")
    run = make_run(home, corpus, {"large": ROWS, "small": responses(QUESTIONS, 3, "small")})
    assert {tuple(example.sample_index) for example in built(run)["train"]} == {(0, 6)}, "the sets are numbered on"
    run.artefact("build", "c").remove()
    run = make_run(home, dataclasses.replace(corpus, rationales=("large",)), {"large": ROWS})
    with pytest.raises(InputError, match="takes the responses of every teacher in turn, but all .* are from 'm'"):
        build(run, "c")
    assert not folder(run).exists()


def test_cap_above_the_number_of_responses_is_refused(home):
    build(make_run(home, c.Corpus(cap=6), {"sampled": ROWS}), "c")
    for fields, message in [
        ({"cap": 7}, "cap=7 would select nothing, as no question has more than 6 responses; lower cap"),
        ({"cap": 3, "n": 2}, r"no question has more than 2 responses \(n=2\)"),
    ]:
        run = make_run(home, c.Corpus(cap_by="random", **fields), {"sampled": ROWS})
        run.artefact("build", "c").remove()
        with pytest.raises(InputError, match=message):
            build(run, "c")
