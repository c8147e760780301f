"""The build job: rationales are filtered, selected and encoded into a corpus that students read."""

import json

from scotd_jax.config import Corpus, plain
from scotd_jax.corpus.build import write_corpus
from scotd_jax.corpus.encode import GroupedExample
from scotd_jax.errors import InputError
from scotd_jax.jobs.run import Run
from scotd_jax.jobs.speaking import read_all
from scotd_jax.rationales.filters import sort_out
from scotd_jax.workdir import write_text


def build(run: Run, name: str) -> None:
    """corpora/NAME: train-*.tfrecord with index, ledger.json, README.md and manifest.

    Raises InputError if no response is left, and if the students that read the corpus do not share a tokenizer.
    """
    spec = run.config.corpora[name]
    artefact = run.artefact("build", name)
    tokenizer, kind = _readers(run, name)
    sets = run.corpus_sets(name)
    identity = {
        "spec": plain(spec),
        "questions": run.questions_identity(sets),
        "tokenizer": tokenizer.fingerprint(),
        "kind": kind,
    }
    if spec.rationales:
        identity["rationales"] = run.artefact("sample", spec.rationales).digest
    if not artefact.begin(identity):
        run.log("  already complete")
        return
    asked = run.ask(sets)
    if spec.target == "label":
        targets = {id_: [(0, task.format.target(None, q.answer))] for id_, (q, task) in asked.items() if q.answer}
        ledger = None
    else:
        targets, ledger = _from_rationales(run, spec, asked, tokenizer, kind)
        write_text(artefact.path / "ledger.json", json.dumps(ledger.to_json(), indent=2) + "\n")
    examples = (
        GroupedExample(
            question_id=id_,
            task=asked[id_][0].task,
            prompt=tokenizer.prompt_ids(asked[id_][1].format.prompt(asked[id_][0]), kind),
            responses=[target_ids(tokenizer, text, asked[id_][1].format.end) for _, text in rows],
            sample_index=[index for index, _ in rows],
        )
        for id_, rows in targets.items()
    )
    meta = {"name": name, "tokenizer": tokenizer.fingerprint(), "kind": kind, "spec": plain(spec)}
    result = write_corpus(artefact.path, "train", examples, spec.shards, meta, ledger=ledger)
    size = result["counts"]
    saving = f"; prompts computed once save {size['grouping_gain']:.1f} x the tokens" * (size["grouping_gain"] > 1.05)
    run.log(f"  {size['questions']} questions with {size['responses']} responses{saving}")
    artefact.finish(result["counts"], [file["sha256"] for file in result["files"]])


def target_ids(tokenizer, text: str, end: str) -> list[int]:
    """Token ids of a target. One that ends in a stop string needs no end token (SCoTD trains OPT with none)."""
    ids = tokenizer.encode(text)
    return ids if end else [*ids, tokenizer.eos_id]


def _from_rationales(run: Run, spec: Corpus, asked: dict, tokenizer, kind: str):
    folder = run.artefact("sample", spec.rationales).path
    responses = read_all(sorted(folder.glob("responses-*.jsonl")))
    questions = {id_: question for id_, (question, _) in asked.items()}

    def text(response) -> str:
        format_ = asked[response.question_id][1].format
        if spec.target == "text":
            return response.text + format_.end
        return format_.target(response.rationale, response.answer)

    def token_counts(response) -> tuple[int, int]:
        question, task = asked[response.question_id]
        prompt = tokenizer.prompt_ids(task.format.prompt(question), kind)
        return len(prompt), len(target_ids(tokenizer, text(response), task.format.end))

    kept, ledger = sort_out(questions, responses, spec, token_counts)
    return {id_: [(row.sample_index, text(row)) for row in rows] for id_, rows in kept.items()}, ledger


def _readers(run: Run, name: str):
    """Tokenizer and kind of model of the students that read the corpus."""
    found = {}
    for student_name, student in run.config.students.items():
        if student.corpus == name:
            tokenizer = run.tokenizer(student.model)
            found[tokenizer.fingerprint(), run.model_config(student.model).kind] = student_name, tokenizer
    if len(found) > 1:
        names = " and ".join(student_name for student_name, _ in found.values())
        raise InputError(
            f"config.corpora.{name}: read by students of different tokenizers or kinds ({names}); give each its corpus"
        )
    ((_, kind), (_, tokenizer)) = next(iter(found.items()))
    return tokenizer, kind
