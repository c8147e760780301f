"""Tests of the few-shot examples: well-formed, original, and parsed back by every prompt format."""

import json
import re
from collections import Counter
from fractions import Fraction

import pytest

from scotd_jax import config
from scotd_jax.errors import InputError
from scotd_jax.records import Question, to_json
from scotd_jax.tasks.exemplars import FOLDER, Exemplar, exemplar_names, few_shot_prefix, load_exemplars
from scotd_jax.tasks.multiple_choice import ARC
from scotd_jax.tasks.numeric_answers import parse_number
from scotd_jax.tasks.prompt_formats import FORMATS, choice_letters
from scotd_jax.tasks.registry import DATASETS, load_task
from scotd_jax.tasks.row_task import RowTask

KINDS = {name: name.removesuffix("_easy").removesuffix("_challenge") for name in exemplar_names()}


def make_task(name, prompt_format="scotd"):
    """Returns a task of the dataset that the exemplars `name` belong to; it has no questions."""
    dataset = {**DATASETS, "arc": ARC}[KINDS[name]]
    options = {option: values[0] for option, values in dataset.options.items()}
    return RowTask(dataset, name, FORMATS[prompt_format], config.Task(), options, {})


def test_every_dataset_has_exemplars():
    assert set(KINDS.values()) == {*DATASETS, "arc"} - {"multiple_choice"}


@pytest.mark.parametrize("prompt_format", FORMATS)
@pytest.mark.parametrize("name", exemplar_names())
def test_every_exemplar_is_parsed_back(name, prompt_format):
    exemplars = load_exemplars(name, make_task(name, prompt_format))
    assert 5 <= len(exemplars) <= 7
    for question, rationale in exemplars:
        target = FORMATS[prompt_format].target(rationale, question.answer)
        assert FORMATS[prompt_format].parse(target, question) == (rationale, question.answer)
        assert rationale == " ".join(rationale.split())
        assert rationale.endswith(".")
        # The number of sentences.
        assert 2 <= len(re.findall(r"[.?!](?= [A-Z\d]|$)", rationale)) <= 5, rationale
        assert prompt_format != "t5" or "\n" not in FORMATS[prompt_format].prompt(question)
    assert len({question.text for question, _ in exemplars}) == len(exemplars)


@pytest.mark.parametrize("name", exemplar_names())
def test_answers_are_balanced(name):
    questions = [question for question, _ in load_exemplars(name, make_task(name))]
    counts = Counter(question.answer for question in questions)
    if questions[0].choices:
        # The answers are letters or, if they are not, the texts of the choices.
        forms = choice_letters(max(len(q.choices) for q in questions))
        forms = forms if questions[0].answer in forms else questions[0].choices
        assert set(counts) == set(forms), "every answer comes"
        assert max(counts.values()) <= -(-len(questions) // len(forms))
    else:
        assert max(counts.values()) == 1


@pytest.mark.parametrize("name", ["gsm8k", "svamp"])
def test_equations_are_correct_and_end_in_the_answer(name):
    for question, rationale in load_exemplars(name, make_task(name)):
        equations = re.findall(r"(\d[\d+*/ -]*?) = (\d+)", rationale)
        assert equations
        for left, right in equations:
            assert re.fullmatch(r"\d+(?: [-+*/] \d+)+", left), left
            assert eval(re.sub(r"\d+", r"Fraction(\g<0>)", left), {"Fraction": Fraction}) == int(right), left
        assert parse_number(equations[-1][1]) == question.answer
        assert re.findall(r"\d+", rationale)[-1] == question.answer, "the answer is the last number of the rationale"


def grams(text, n=8):
    """Yields all sequences of n consecutive words."""
    words = re.findall(r"\w+", text.lower())
    return (tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def test_no_exemplar_is_copied_from_a_dataset(shared_data):
    ours = {}
    for name in exemplar_names():
        for row in (FOLDER / f"{name}.jsonl").read_text().splitlines():
            for text in json.loads(row).values():
                ours |= dict.fromkeys(grams(str(text)), name)
    assert len(ours) > 1000
    files = [*sorted(shared_data.glob("*/*.jsonl")), *sorted(shared_data.glob("*/*.tsv"))]
    assert len(files) == 18
    for file in files:
        shared = [gram for gram in grams(file.read_text()) if gram in ours]
        assert not shared, f"{file.name} and the exemplars of {ours[shared[0]]} share {' '.join(shared[0])!r}"


# -- The loader ------------------------------------------------------------------------------------------------------

EXEMPLARS = [
    Exemplar(Question("t/x/0", "t", "x", "What barks?", ("cat", "dog"), "dog"), "Cats do not."),
    Exemplar(Question("t/x/1", "t", "x", "What purrs?", ("cat", "dog"), "cat"), "Dogs do not."),
]


def test_few_shot_prefix_joins_prompts_and_targets_with_the_end_string():
    assert few_shot_prefix(FORMATS["scotd"], EXEMPLARS) == (
        "Q: What barks?\nA: Cats do not. So the answer is: dog\n\n"
        "Q: What purrs?\nA: Dogs do not. So the answer is: cat\n\n"
    )
    assert few_shot_prefix(FORMATS["t5"], EXEMPLARS) == (
        "Question: What barks? Answer: Cats do not. So the answer is: dog "
        "Question: What purrs? Answer: Dogs do not. So the answer is: cat "
    )
    assert few_shot_prefix(FORMATS["scotd"], []) == ""


def test_exemplars_of_a_jsonl_task_have_the_fields_of_questions(tmp_path):
    (tmp_path / "train.jsonl").write_text(to_json(EXEMPLARS[0].question) + "\n")
    task = load_task("own", config.Task(kind="jsonl", path=str(tmp_path)), 0)
    file = tmp_path / "exemplars.json"
    row = {"text": "What barks?", "choices": ["cat", "dog"], "answer": "dog", "rationale": "Cats do not."}
    file.write_text(json.dumps([row]))
    [(question, rationale)] = load_exemplars(str(file), task)
    assert (question.id, question.answer, rationale) == ("own/exemplars/0", "dog", "Cats do not.")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"rationale": " "}, r"line 1: field 'rationale' should be the reasoning"),
        ({"answer": "cow"}, r"line 1: answer 'cow' is not a label"),
        ({"answer": None}, r"line 1: the prompt format does not parse the answer None back"),
        ({"rationale": "One.\n\nTwo."}, r"line 1: the prompt format does not parse the answer 'yes' back from 'One"),
        ({"question": ""}, r"line 1: field 'question' is empty"),
    ],
)
def test_malformed_exemplars_are_refused(tmp_path, row, message):
    file = tmp_path / "mine.jsonl"
    file.write_text(json.dumps({"question": "Do dogs bark?", "answer": True, "rationale": "They do.", **row}) + "\n")
    with pytest.raises(InputError, match=message):
        load_exemplars(str(file), make_task("strategyqa"))


def test_unknown_names_and_empty_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="'strategy' is neither a file nor one of anli, arc_challenge"):
        load_exemplars("strategy", make_task("strategyqa"))
    (tmp_path / "mine.jsonl").write_text("")
    with pytest.raises(InputError, match=r"mine\.jsonl: holds no exemplars"):
        load_exemplars(str(tmp_path / "mine.jsonl"), make_task("strategyqa"))
