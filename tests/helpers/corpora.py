"""A small task, responses to its questions, and runs that build a corpus of both, for tests of the build job."""

import dataclasses
from pathlib import Path

from scotd_jax import config as c
from scotd_jax.corpus.grouped_example import GroupedExample
from scotd_jax.corpus.reader import CorpusReader
from scotd_jax.jobs.build import build
from scotd_jax.jobs.context import RunContext, make_context
from scotd_jax.rationales.store import ResponseWriter
from scotd_jax.records import Question, Response, to_json
from scotd_jax.tasks import recipes
from scotd_jax.workdir import Workdir

MODEL = c.Model(architecture="opt-tiny", tokenizer="task:t")
WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]


def question(i: int, split: str = "train") -> Question:
    """Returns question i of a split, with 14 words that no other question has; the first of two choices is correct."""
    text = " ".join(f"{split}{i}{word}" for word in (*WORDS, "red", "blue"))
    return Question(f"t/{split}/{i}", "t", split, text, ("yes", "no"), "yes")


def responses(questions: list[Question], n: int, model: str = "m") -> list[Response]:
    """Returns n responses to each question. Response k to question i is wrong if (i + k) % 4 is 0.

    The responses to a question have different lengths.
    """
    rows = []
    for i, question_ in enumerate(questions):
        for k in range(n):
            answer = "no" if (i + k) % 4 == 0 else "yes"
            rationale = " ".join([f"because{i}", *WORDS[: 1 + k], model])
            text = f"{rationale} So the answer is: {answer}"
            scores = (answer == "yes", "stop", -1.0 - k, 3)
            rows.append(Response(question_.id, k, text, rationale, answer, *scores, model, "s"))
    return rows


def write_questions(folder: Path, **splits: list[Question]) -> None:
    """Writes the splits of the task, and gold rationales with the words of its vocabulary."""
    folder.mkdir(exist_ok=True)
    gold = responses(splits["train"], 6)
    (folder / "train.gold.jsonl").write_text("".join(to_json(row) + "\n" for row in gold))
    for split, questions in splits.items():
        (folder / f"{split}.jsonl").write_text("".join(to_json(q) + "\n" for q in questions))


def make_run(
    folder: Path,
    corpus: c.Corpus,
    responses_by_name: dict[str, list[Response]],
    recipes: dict[str, c.Recipe] | None = None,
    **fields,
) -> RunContext:
    """Returns a run context in FOLDER/run with corpus "c" and student "s".

    Every set in `responses_by_name` is complete. FOLDER/t contains the questions of the task. `fields` are further
    fields of the student.
    """
    student = c.Student(**{"model": MODEL, "corpus": "c"} | fields)
    config = c.Config(
        tasks={"t": c.Task(kind="jsonl", path=str(folder / "t"))},
        rationales={name: c.FileSource(questions=("t.train",)) for name in responses_by_name},
        corpora={"c": dataclasses.replace(corpus, rationales=corpus.rationales or tuple(responses_by_name))},
        students={"s": student},
        recipes=recipes or {},
    )
    run = make_context(config, Workdir(str(folder / "run")))
    for name, rows in responses_by_name.items():
        artefact = run.artefact("sample", name)
        if artefact.begin({"rows": len(rows)}):
            writer = ResponseWriter(artefact.path)
            writer.write(rows)
            writer.merge([q.id for q in run.questions.questions("t.train")], 3)
            artefact.finish({})
    return run


def built(run: RunContext) -> dict[str, list[GroupedExample]]:
    """Builds the corpus and returns the records of every part."""
    build(run, "c")
    readers = {part: CorpusReader(folder(run), part) for part in run.recipes["c"].parts}
    return {part: [reader[i] for i in range(len(reader))] for part, reader in readers.items()}


def folder(run: RunContext) -> Path:
    return Path(run.artefact("build", "c").path)


def files(run: RunContext) -> dict[str, bytes]:
    """Returns all files of the corpus except the manifest, which contains versions and times."""
    return {p.name: p.read_bytes() for p in sorted(folder(run).iterdir()) if p.name != "manifest.json"}


def expected(run: RunContext, kept: dict[str, list[Response]], flat: bool = False) -> dict[str, list[GroupedExample]]:
    """Returns what `built` should return: encodes the kept responses one text at a time, without shards.

    `flat` makes one record per response, as in a corpus with balance="responses".
    """
    tokenizer = run.models.tokenizer(MODEL)
    parts: dict[str, list[GroupedExample]] = {}
    for name, part in run.recipes["c"].parts.items():
        parts[name] = []
        for id_, (question_, task) in run.questions.by_id(("t.train",)).items():
            rows = kept.get(id_, [])
            groups = [[row] for row in rows] if flat or not rows else [rows]
            for group in groups:
                for prompt, targets in recipes.training_examples(part, task.format, question_, group):
                    end = [] if task.format.end else [tokenizer.eos_id]
                    ids = [tokenizer.encode(text) + end for _, text in targets]
                    index = [group[0].sample_index] if flat else [k for k, _ in targets]
                    example = GroupedExample(id_, "t", tokenizer.prompt_ids(prompt, "opt"), ids, index)
                    parts[name].append(example)
    return parts
