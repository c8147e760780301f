"""Recipes: the examples that a question and its responses make, how a student is asked, and how it is read."""

import dataclasses

import pytest

from scotd_jax.config import Part, Recipe
from scotd_jax.errors import InputError
from scotd_jax.records import Question, Response
from scotd_jax.tasks import recipes
from scotd_jax.tasks.prompt_formats import FORMATS

SCOTD, T5 = FORMATS["scotd"], FORMATS["t5"]
QUESTION = Question("q", "zoo", "train", "Which lays eggs? (a) hen (b) cow", ("hen", "cow"), "(a)")


def said(index, rationale="Hens lay eggs.", answer="(a)"):
    text = f"{rationale} So the answer is: {answer}"
    return Response("q", index, text, rationale, answer, True, "stop", -1.0, 9, "teacher", "temperature=1")


ROWS = [said(0), said(3, "  Birds lay eggs.\n", "(a)"), said(5, "It is a cow.", "(b)")]


def made(name, rows=ROWS, style=SCOTD, question=QUESTION):
    return {
        key: recipes.training_examples(part, style, question, rows) for key, part in recipes.RECIPES[name].parts.items()
    }


def test_scotd_is_rationale_then_the_response_s_answer_under_one_prompt():
    assert made("scotd") == {
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


def test_labels_make_one_example_whatever_was_said():
    prompt = "Q: Which lays eggs? (a) hen (b) cow\nA: "
    assert made("label", []) == made("label") == {"train": [(prompt, [(0, "(a)\n\n")])]}
    assert made("teacher_label") == {"train": [(prompt, [(0, "(a)\n\n"), (3, "(a)\n\n"), (5, "(b)\n\n")])]}


def test_step_by_step_is_two_tasks_told_apart_by_a_prefix():
    text = "Which lays eggs? (a) hen (b) cow"
    assert made("step_by_step", ROWS[:1], T5) == {
        "predict": [(f"predict: {text}", [(0, "hen")])],
        "explain": [(f"explain: {text}", [(0, "Hens lay eggs.")])],
    }
    recipe = recipes.RECIPES["step_by_step"]
    assert recipes.build_prompt(recipe, T5, QUESTION) == f"predict: {text}"
    assert recipes.parse_response(recipe, T5, " Hen ", QUESTION).answer == "(a)"
    assert recipes.parse_response(recipe, T5, "(a)", QUESTION).answer is None


def test_the_second_stage_has_a_prompt_for_every_rationale():
    prompts = [prompt for prompt, _ in made("infer", style=T5)["train"]]
    assert prompts == [
        "Question: Which lays eggs? (a) hen (b) cow Solution: Hens lay eggs. Answer: ",
        "Question: Which lays eggs? (a) hen (b) cow Solution: Birds lay eggs. Answer: ",
        "Question: Which lays eggs? (a) hen (b) cow Solution: It is a cow. Answer: ",
    ]
    assert [targets for _, targets in made("infer", style=T5)["train"]] == [[(0, "(a)")], [(3, "(a)")], [(5, "(a)")]]
    recipe = recipes.RECIPES["infer"]
    assert recipes.needs_rationale(recipe)
    assert not recipes.needs_rationale(recipes.RECIPES["scotd"])
    assert recipes.build_prompt(recipe, T5, QUESTION, " Hens lay eggs. ") == prompts[0]


@pytest.mark.parametrize("style", list(FORMATS))
@pytest.mark.parametrize("name", ["scotd", "answer_first"])
def test_what_is_taught_is_read_back(name, style):
    style = FORMATS[style]
    for _, targets in made(name, style=style)["train"]:
        for (_, text), row in zip(targets, ROWS, strict=True):
            found = recipes.parse_response(recipes.RECIPES[name], style, text, QUESTION)
            assert found == (row.rationale.strip(), row.answer)


def test_a_rationale_is_read_as_a_whole_and_answers_nothing():
    found = recipes.parse_response(recipes.RECIPES["rationale"], SCOTD, "Hens lay eggs.\n\nQ: more", QUESTION)
    assert found == ("Hens lay eggs.", None)


def test_a_text_that_two_choices_have_is_right_if_the_gold_one_has_it():
    question = dataclasses.replace(QUESTION, choices=("hen", "cow", "hen"), answer="(c)")
    read = recipes.RECIPES["step_by_step"]
    assert recipes.parse_response(read, T5, "hen", question).answer == "(c)"
    assert recipes.parse_response(read, T5, "cow", question).answer == "(b)"
    assert recipes.parse_response(read, T5, "dog", question).answer is None


def test_gold_that_is_not_known_is_said():
    with pytest.raises(InputError, match=r"question 'q' has no gold answer, which \{gold\}"):
        made("label", question=dataclasses.replace(QUESTION, answer=None))


def test_braces_in_texts_are_not_templates():
    row = said(0, "{gold} and {x}")
    assert made("scotd", [row])["train"][0][1] == [(0, "{gold} and {x} So the answer is: (a)\n\n")]


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (Recipe({"a": Part(target="{rational}")}), r"recipes.mine.parts.a.target: unknown field \{rational\}; did you"),
        (Recipe({"a": Part(prompt="{ask")}), "parts.a.prompt: '{ask' is not a valid template"),
        (Recipe({"a": Part(weight=0.0)}), "parts.a.weight: expected more than 0, found 0.0"),
        (Recipe({}), "at least one part"),
        (Recipe(prompt="{prompt}{gold}"), r"prompt: \{gold\} is not known when a student is prompted"),
    ],
)
def test_a_recipe_of_one_s_own_is_checked(recipe, message):
    with pytest.raises(InputError, match=message):
        recipes.find("mine", {"mine": recipe})


def test_an_unknown_name_has_a_nearest_one():
    with pytest.raises(InputError, match=r"corpora.x.recipe: 'scott' is not a recipe; did you mean 'scotd'\?"):
        recipes.find("scott", {}, "config.corpora.x.recipe")


def test_templates_bring_their_words_into_a_vocabulary():
    words = recipes.literal_text(recipes.RECIPES["step_by_step"], FORMATS["plain"]).split()
    assert set(words) == {"predict:", "explain:"}
    assert "solution" in recipes.literal_text(recipes.RECIPES["infer"], FORMATS["plain"]).split()
    assert not recipes.literal_text(recipes.RECIPES["scotd"], FORMATS["plain"]).split()
