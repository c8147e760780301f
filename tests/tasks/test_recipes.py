"""Tests of recipes: training examples, prompts and parsing."""

import dataclasses
import functools

import pytest

from scotd_jax.config import Part, Recipe
from scotd_jax.errors import InputError
from scotd_jax.records import Question, Response
from scotd_jax.tasks import recipes
from scotd_jax.tasks.prompt_formats import FORMATS

SCOTD, T5 = FORMATS["scotd"], FORMATS["t5"]
QUESTION = Question("q", "zoo", "train", "Which lays eggs? (a) hen (b) cow", ("hen", "cow"), "(a)")


def make_response(index, rationale="Hens lay eggs.", answer="(a)"):
    text = f"{rationale} So the answer is: {answer}"
    return Response("q", index, text, rationale, answer, True, "stop", -1.0, 9, "teacher", "temperature=1")


ROWS = [make_response(0), make_response(3, "  Birds lay eggs.\n", "(a)"), make_response(5, "It is a cow.", "(b)")]


def examples_by_part(name, rows=ROWS, prompt_format=SCOTD, question=QUESTION):
    return {
        key: recipes.training_examples(part, prompt_format, question, rows)
        for key, part in recipes.RECIPES[name].parts.items()
    }


def test_scotd_has_rationale_and_answer_of_each_response_under_one_prompt():
    assert examples_by_part("scotd") == {
        "train": [
            (
                "Q: Which lays eggs? (a) hen (b) cow\nA: ",
                [
                    (0, "Hens lay eggs. So the answer is: (a)\n\n"),
                    (3, "Birds lay eggs. So the answer is: (a)\n\n"),
                    (5, "It is a cow. So the answer is: (b)\n\n"),
                ],
            )
        ]
    }


def test_label_makes_one_example_independent_of_the_responses():
    prompt = "Q: Which lays eggs? (a) hen (b) cow\nA: "
    assert examples_by_part("label", []) == examples_by_part("label") == {"train": [(prompt, [(0, "(a)\n\n")])]}
    assert examples_by_part("teacher_label") == {"train": [(prompt, [(0, "(a)\n\n"), (3, "(a)\n\n"), (5, "(b)\n\n")])]}


def test_step_by_step_has_two_tasks_with_different_prefixes():
    text = "Which lays eggs? (a) hen (b) cow"
    assert examples_by_part("step_by_step", ROWS[:1], T5) == {
        "predict": [(f"predict: {text}", [(0, "hen")])],
        "explain": [(f"explain: {text}", [(0, "Hens lay eggs.")])],
    }
    recipe = recipes.RECIPES["step_by_step"]
    assert recipes.build_prompt(recipe, T5, QUESTION) == f"predict: {text}"
    assert recipes.parse_response(recipe, T5, " Hen ", QUESTION).answer == "(a)"
    assert recipes.parse_response(recipe, T5, "(a)", QUESTION).answer is None


def test_infer_has_one_prompt_per_rationale():
    prompts = [prompt for prompt, _ in examples_by_part("infer", prompt_format=T5)["train"]]
    assert prompts == [
        "Question: Which lays eggs? (a) hen (b) cow Solution: Hens lay eggs. Answer: ",
        "Question: Which lays eggs? (a) hen (b) cow Solution: Birds lay eggs. Answer: ",
        "Question: Which lays eggs? (a) hen (b) cow Solution: It is a cow. Answer: ",
    ]
    assert [targets for _, targets in examples_by_part("infer", prompt_format=T5)["train"]] == [
        [(0, "(a)")],
        [(3, "(a)")],
        [(5, "(a)")],
    ]
    recipe = recipes.RECIPES["infer"]
    assert recipes.needs_rationale(recipe)
    assert not recipes.needs_rationale(recipes.RECIPES["scotd"])
    assert recipes.build_prompt(recipe, T5, QUESTION, " Hens lay eggs. ") == prompts[0]


@pytest.mark.parametrize("prompt_format", list(FORMATS))
@pytest.mark.parametrize("name", ["scotd", "answer_first"])
def test_targets_are_parsed_back(name, prompt_format):
    prompt_format = FORMATS[prompt_format]
    for _, targets in examples_by_part(name, prompt_format=prompt_format)["train"]:
        for (_, text), row in zip(targets, ROWS, strict=True):
            found = recipes.parse_response(recipes.RECIPES[name], prompt_format, text, QUESTION)
            assert found == (row.rationale.strip(), row.answer)


def test_response_of_recipe_rationale_has_no_answer():
    found = recipes.parse_response(recipes.RECIPES["rationale"], SCOTD, "Hens lay eggs.\n\nQ: more", QUESTION)
    assert found == ("Hens lay eggs.", None)


def test_text_shared_by_two_choices_counts_as_the_gold_one():
    question = dataclasses.replace(QUESTION, choices=("hen", "cow", "hen"), answer="(c)")
    recipe = recipes.RECIPES["step_by_step"]
    assert recipes.parse_response(recipe, T5, "hen", question).answer == "(c)"
    assert recipes.parse_response(recipe, T5, "cow", question).answer == "(b)"
    assert recipes.parse_response(recipe, T5, "dog", question).answer is None


def test_text_of_a_choice_without_gold_answer_becomes_a_letter_only_if_the_question_has_letters():
    parse = functools.partial(recipes.parse_response, recipes.RECIPES["step_by_step"], T5)
    assert parse("cow", dataclasses.replace(QUESTION, answer=None)).answer == "(b)"
    review = Question("r", "films", "test", "Is the review 'fine' positive?", ("negative", "positive"))
    assert parse(" Positive", review).answer == "positive"


def test_missing_gold_answer_is_reported():
    with pytest.raises(InputError, match=r"question 'q' has no gold answer, but its recipe uses \{gold\}"):
        examples_by_part("label", question=dataclasses.replace(QUESTION, answer=None))


def test_braces_in_texts_are_literal():
    row = make_response(0, "{gold} and {x}")
    assert examples_by_part("scotd", [row])["train"][0][1] == [(0, "{gold} and {x} So the answer is: (a)\n\n")]


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (Recipe({"a": Part(target="{rational}")}), r"recipes.mine.parts.a.target: unknown field \{rational\}; did you"),
        (Recipe(prompt="{ask}"), r"prompt: unknown field \{ask\}; it is now called 'prompt'"),
        (
            Recipe({"a": Part(prompt="{given}")}),
            r"prompt: unknown field \{given\}; it is now called 'rationale_prefix'",
        ),
        (Recipe({"a": Part(prompt="{prompt")}), "parts.a.prompt: '{prompt' is not a valid template"),
        (Recipe({"a": Part(weight=0.0)}), "parts.a.weight: expected more than 0, found 0.0"),
        (Recipe({}), "at least one part"),
        (Recipe(prompt="{prompt}{gold}"), r"prompt: \{gold\} is not known when a student is prompted"),
    ],
)
def test_custom_recipes_are_checked(recipe, message):
    with pytest.raises(InputError, match=message):
        recipes.find("mine", {"mine": recipe})


def test_unknown_name_suggests_the_nearest_one():
    with pytest.raises(InputError, match=r"corpora.x.recipe: 'scott' is not a recipe; did you mean 'scotd'\?"):
        recipes.find("scott", {}, "config.corpora.x.recipe")


def test_literal_text_contains_the_words_of_the_templates():
    words = recipes.literal_text(recipes.RECIPES["step_by_step"], FORMATS["plain"]).split()
    assert set(words) == {"predict:", "explain:"}
    assert "solution" in recipes.literal_text(recipes.RECIPES["infer"], FORMATS["plain"]).split()
    assert not recipes.literal_text(recipes.RECIPES["scotd"], FORMATS["plain"]).split()


@pytest.mark.parametrize(
    ("name", "generates", "responses"),
    [
        ("scotd", True, ["Hens lay. So the answer is: (a)\n\n", "Hens lay. So the answer is: (b)\n\n"]),
        ("text", True, ["Hens lay. So the answer is: (a)\n\n", "Hens lay. So the answer is: (b)\n\n"]),
        ("label", False, ["(a)\n\n", "(b)\n\n"]),
        ("teacher_label", False, ["(a)\n\n", "(b)\n\n"]),
        ("infer", False, ["(a)\n\n", "(b)\n\n"]),
        ("answer_first", False, ["(a) Because: ", "(b) Because: "]),
        ("step_by_step", False, ["hen\n\n", "cow\n\n"]),
    ],
)
def test_choices_are_answered_in_the_words_of_the_training_target(name, generates, responses):
    recipe = recipes.RECIPES[name]
    assert recipes.generates_rationale(recipe) is generates
    found = recipes.choice_responses(recipe, SCOTD, QUESTION, " Hens lay.\n" if generates else None)
    assert found == dict(zip(("(a)", "(b)"), responses, strict=True))
    for answer, text in found.items():
        assert recipes.parse_response(recipe, SCOTD, text, QUESTION).answer == answer


def test_choices_need_a_part_that_answers_the_evaluation_prompt():
    assert recipes.answer_target(recipes.RECIPES["rationale"]) is None
    braces = Recipe({"train": Part(target="{rationale} {{answer}} {gold}")})
    assert recipes.answer_target(braces) == "{rationale} {{answer}} {gold}"
    assert recipes.generates_rationale(braces)
    assert recipes.choice_responses(braces, T5, QUESTION, "Hens.")["(b)"] == "Hens. {answer} (b)"
    only_explains = Recipe({"train": Part("explain: {question}", "{gold}")})
    assert recipes.answer_target(only_explains) is None
