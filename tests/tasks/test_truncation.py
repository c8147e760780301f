"""Truncation of long questions: by words and by tokens, of texts and of passages."""

import dataclasses
import json

import pytest

from scotd_jax import config as c
from scotd_jax.errors import FieldError, InputError
from scotd_jax.records import Question, to_json
from scotd_jax.tasks.question_loader import QuestionLoader
from scotd_jax.tasks.truncation import TAG
from scotd_jax.tokenization import Tokenizer

SHORT = Question("t/1", "t", "train", "What is\nit?", answer="good", tags=("easy",))
LONG = Question("t/2", "t", "train", "What is it?\n" + "word " * 30 + "end", answer="good")
PASSAGE = dataclasses.replace(LONG, id="t/3", text="Is it good?", context="one two three four five six")


def loaded(folder, *questions: Question, **fields) -> dict[str, Question]:
    (folder / "t").mkdir(exist_ok=True)
    (folder / "t" / "train.jsonl").write_text("".join(to_json(q) + "\n" for q in questions))
    loader = QuestionLoader({"t": c.Task("jsonl", path=str(folder / "t"), **fields)}, 0)
    return {q.id: q for q in loader.questions("t.train")}


def test_long_questions_lose_their_last_words_and_are_tagged(tmp_path):
    found = loaded(tmp_path, SHORT, LONG, PASSAGE, max_tokens=7)
    assert found["t/1"] == SHORT
    assert found["t/2"].text == "What is it?\nword word word word"
    assert found["t/2"].tags == (TAG,)
    assert (found["t/3"].text, found["t/3"].context) == (PASSAGE.text, "one two three four")
    assert loaded(tmp_path, SHORT, LONG, PASSAGE) == {q.id: q for q in (SHORT, LONG, PASSAGE)}


def test_tokens_are_those_of_the_tokenizer(tmp_path):
    Tokenizer.train_word_level(["What is it ? word end good"]).save(str(tmp_path / "tokenizer"))
    texts = json.loads((tmp_path / "tokenizer" / "tokenizer.json").read_text())
    assert "word" in texts["model"]["vocab"]
    found = loaded(tmp_path, LONG, max_tokens=5, tokenizer=str(tmp_path / "tokenizer"))["t/2"]
    tokenizer = Tokenizer.load(str(tmp_path / "tokenizer"))
    assert tokenizer.encode(found.text) == tokenizer.encode(LONG.text)[:5]
    with pytest.raises(InputError, match="no such file or folder"):
        loaded(tmp_path, LONG, max_tokens=5, tokenizer=str(tmp_path / "missing" / "x"))


def test_impossible_limits_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"config.tasks.t.max_tokens: the text of question 't/3' has 3 tokens without"):
        loaded(tmp_path, PASSAGE, max_tokens=3)
    with pytest.raises(FieldError, match="at least 0"):
        c.Task(max_tokens=-1)
    with pytest.raises(FieldError, match="max_tokens, which is not set"):
        c.Task(tokenizer="gpt2")


def test_folds_do_not_depend_on_the_truncation(tmp_path):
    questions = [dataclasses.replace(LONG, id=f"t/{i}", text=f"What is it? word {i} {LONG.text}") for i in range(20)]
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "train.jsonl").write_text("".join(to_json(q) + "\n" for q in questions))

    def fold(**fields) -> set[str]:
        task = c.Task("jsonl", path=str(tmp_path / "t"), **fields)
        return {q.id for q in QuestionLoader({"t": task}, 0).questions("t.train@0/3")}

    assert fold() == fold(max_tokens=3) != set()
