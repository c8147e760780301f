"""The build job: rationales are filtered, selected and encoded into a corpus that students read."""

import json
from collections.abc import Sequence

from scotd_jax.config import Corpus, Part, Recipe, plain
from scotd_jax.corpus.build import write_corpus
from scotd_jax.corpus.encode import GroupedExample
from scotd_jax.errors import InputError
from scotd_jax.jobs.run import Run
from scotd_jax.jobs.speaking import read_all
from scotd_jax.rationales.filters import sort_out
from scotd_jax.records import Question, Response
from scotd_jax.tasks import recipes
from scotd_jax.tasks.formats import Format
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
        "recipe": plain(run.recipe(name)),
        "questions": run.questions_identity(sets),
        "tokenizer": tokenizer.fingerprint(),
        "kind": kind,
    }
    if spec.rationales:
        identity["rationales"] = [run.artefact("sample", each).digest for each in spec.rationales]
    if not artefact.begin(identity):
        run.log("  already complete")
        return
    asked = run.ask(sets)
    recipe = run.recipe(name)
    if spec.rationales:
        kept, ledger = _from_rationales(run, spec, recipe, asked, tokenizer, kind)
        write_text(artefact.path / "ledger.json", json.dumps(ledger.to_json(), indent=2) + "\n")
    else:
        kept, ledger = {id_: [] for id_ in asked}, None
    meta = {"name": name, "tokenizer": tokenizer.fingerprint(), "kind": kind, "spec": plain(spec)}
    for part_name, part in recipe.parts.items():
        examples = (
            example
            for id_, rows in kept.items()
            for example in encoded(part, asked[id_][1].format, asked[id_][0], rows, tokenizer, kind)
        )
        result = write_corpus(artefact.path, part_name, examples, spec.shards, meta, ledger=ledger)
    size = result["counts"]
    saving = f"; prompts computed once save {size['grouping_gain']:.1f} x the tokens" * (size["grouping_gain"] > 1.05)
    run.log(f"  {size['questions']} questions with {size['responses']} responses{saving}")
    artefact.finish(result["counts"], [file["sha256"] for file in result["files"]])


def target_ids(tokenizer, text: str, end: str) -> list[int]:
    """Token ids of a target. One that ends in a stop string needs no end token (SCoTD trains OPT with none)."""
    ids = tokenizer.encode(text)
    return ids if end else [*ids, tokenizer.eos_id]


def encoded(part: Part, style: Format, question: Question, rows: Sequence[Response], tokenizer, kind: str):
    """The examples that a part makes of one question, as token ids."""
    return [
        GroupedExample(
            question_id=question.id,
            task=question.task,
            prompt=tokenizer.prompt_ids(prompt, kind),
            responses=[target_ids(tokenizer, text, style.end) for _, text in said],
            sample_index=[index for index, _ in said],
        )
        for prompt, said in recipes.examples(part, style, question, rows)
    ]


def _from_rationales(run: Run, spec: Corpus, recipe: Recipe, asked: dict, tokenizer, kind: str):
    responses = [
        row
        for name in spec.rationales
        for row in read_all(sorted(run.artefact("sample", name).path.glob("responses-*.jsonl")))
    ]

    def token_counts(response: Response) -> tuple[int, int]:
        question, task = asked[response.question_id]
        made = [
            e
            for part in recipe.parts.values()
            for e in encoded(part, task.format, question, [response], tokenizer, kind)
        ]
        return max(len(e.prompt) for e in made), max(len(e.responses[0]) for e in made)

    needs_answer = recipes.uses(recipe, "answer") or spec.keep != "all"
    return sort_out(
        {id_: question for id_, (question, _) in asked.items()}, responses, spec, token_counts, needs_answer
    )


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
