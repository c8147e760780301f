"""Tests of every dataset in its official file format; all texts are invented."""

import gzip
import json

import pytest

from scotd_jax import config
from scotd_jax.errors import InputError
from scotd_jax.evaluation.question_groups import contrast_groups
from scotd_jax.tasks.prompt_formats import FORMATS
from scotd_jax.tasks.registry import load_task


def load(kind, folder, split, name=None, **settings):
    task = load_task(name or kind, config.Task(kind=kind, path=str(folder), **settings), 0)
    return task.questions(split)


def lines(path, *rows):
    """Writes one line per row: a text as it is, anything else as JSON."""
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))


def choices(*texts, labels="ABCDE"):
    return [{"label": label, "text": text} for label, text in zip(labels, texts, strict=False)]


# -- Multiple choice -------------------------------------------------------------------------------------------------

# A row in the form of CommonsenseQA, OpenBookQA and ARC.
BLOCK = {"answerKey": "B", "id": "c1", "question": {"stem": "What  barks?", "choices": choices("cat", "dog", "dog")}}


def test_commonsenseqa_has_one_choice_per_line(tmp_path):
    lines(tmp_path / "train_rand_split.jsonl", BLOCK)
    [question] = load("commonsenseqa", tmp_path, "train")
    assert question.text == "What barks?\nAnswer Choices:\n(a) cat\n(b) dog\n(c) dog"
    assert (question.id, question.answer) == ("commonsenseqa/train/c1", "(b)"), "a repeated text is matched by letter"
    [flat] = load("commonsenseqa", tmp_path, "train", format="t5")
    assert FORMATS["t5"].question(flat) == "What barks? Answer Choices: (a) cat (b) dog (c) dog"
    [line] = load("commonsenseqa", tmp_path, "train", options={"layout": "line"})
    assert line.text == "What barks? (a) cat (b) dog (c) dog"


def test_commonsenseqa_test_set_has_no_answers(tmp_path):
    lines(tmp_path / "test_rand_split_no_answers.jsonl", {k: v for k, v in BLOCK.items() if k != "answerKey"})
    assert load("commonsenseqa", tmp_path, "test")[0].answer is None


def test_openbookqa_is_one_line_and_keeps_repeated_questions(tmp_path):
    lines(tmp_path / "dev.jsonl", BLOCK, {**BLOCK, "id": "c2"})
    first, second = load("openbookqa", tmp_path, "dev")
    assert first.text == second.text == "What barks? (a) cat (b) dog (c) dog"
    assert (first.id, second.id) == ("openbookqa/dev/c1", "openbookqa/dev/c2")


def test_arc_part_comes_from_name_or_option(tmp_path):
    digits = {
        "id": "e1",
        "question": {"stem": "Name", "choices": choices("x", "y", "z", labels="123")},
        "answerKey": "3",
    }
    lines(tmp_path / "ARC-Easy-Test.jsonl", digits)
    lines(tmp_path / "ARC-Challenge" / "ARC-Challenge-Test.jsonl", BLOCK)
    assert [(q.id, q.answer) for q in load("arc", tmp_path, "test", "ARC_easy")] == [("ARC_easy/test/e1", "(c)")]
    assert load("arc", tmp_path, "test", "arc_challenge")[0].id == "arc_challenge/test/c1"
    assert load("arc", tmp_path, "test", options={"part": "Challenge"})[0].id == "arc/test/c1"
    with pytest.raises(InputError, match=r"config\.tasks\.arc: is it ARC-Easy or ARC-Challenge\? Set options="):
        load("arc", tmp_path, "test")
    with pytest.raises(InputError, match=r"options\.part: 'Hard' is not one of Easy, Challenge"):
        load("arc", tmp_path, "test", options={"part": "Hard"})


def test_custom_multiple_choice_may_list_texts_only(tmp_path):
    lines(tmp_path / "mine.jsonl", {"question": "What barks?", "choices": ["cat", "dog"], "answerKey": "B"})
    [question] = load("multiple_choice", tmp_path, "mine")
    assert (question.id, question.text, question.answer) == (
        "multiple_choice/mine/0",
        "What barks? (a) cat (b) dog",
        "(b)",
    )


# -- QuaRel ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tail", "found"),
    [
        ("(A) wool (B) glass", ("wool", "glass")),
        ("(A) wool or (B) glass.", ("wool", "glass")),
        ("(A) wool. (B) glass or", ("wool", "glass")),
        ("the(A) wool or(B) glass?", ("wool", "glass")),
    ],
)
def test_quarel_reads_one_object_per_file(tmp_path, tail, found):
    rows = {"0": {"question": f"Which is smoother? {tail}", "rationale": "dummy", "answer": "(B)"}}
    (tmp_path / "dev.jsonl").write_text(json.dumps(rows))
    [question] = load("quarel", tmp_path, "dev")
    assert question.text == f"Which is smoother? {tail}", "the question is unchanged, with capital letters"
    assert (question.choices, question.answer, question.id) == (found, "(b)", "quarel/dev/0")


def test_quarel_reads_official_rows(tmp_path):
    row = {"id": "Q7", "answer_index": 0, "question": "Which is rougher? (A) wool (B) glass", "world_literals": {}}
    lines(tmp_path / "quarel-v1-train.jsonl", row)
    assert [(q.id, q.answer) for q in load("quarel", tmp_path, "train")] == [("quarel/train/Q7", "(a)")]
    lines(tmp_path / "quarel-v1-train.jsonl", {**row, "question": "Which is rougher?"})
    with pytest.raises(InputError, match=r"train\.jsonl line 1: expected a question with \(A\) and \(B\)"):
        load("quarel", tmp_path, "train")


# -- Sentiment -------------------------------------------------------------------------------------------------------


def test_sst2_has_unquoted_rows_with_the_label_first(tmp_path):
    lines(tmp_path / "dev.tsv", "0\tit 's \"dull .", "1\ta joy .")
    dull, joy = load("sst2", tmp_path, "dev")
    assert dull.text == "What is the sentiment of the following sentence?\nit 's \"dull ."
    assert (dull.answer, joy.answer, joy.choices) == ("negative", "positive", ("negative", "positive"))
    assert FORMATS["t5"].question(joy) == "What is the sentiment of the following sentence? a joy ."


def test_sst2_reads_glue_files_with_a_header(tmp_path):
    lines(tmp_path / "train.tsv", "sentence\tlabel", "a joy .\t1")
    lines(tmp_path / "test.tsv", "index\tsentence", "0\ta joy .")
    assert load("sst2", tmp_path, "train")[0].answer == "positive"
    assert load("sst2", tmp_path, "test")[0].answer is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2\tfine .", r"line 2: label '2' is not a label; expected one of 0, 1, neg"),
        ("a line", r"line 2: expected label<TAB>sentence, found 'a line'"),
        ("1\t ", r"line 2: field 'sentence' is empty"),
    ],
)
def test_sst2_refuses_malformed_lines(tmp_path, line, message):
    lines(tmp_path / "dev.tsv", "1\tgood .", line)
    with pytest.raises(InputError, match=rf"dev\.tsv {message}"):
        load("sst2", tmp_path, "dev")


def test_imdb_contrast_pairs_are_groups(tmp_path):
    lines(
        tmp_path / "test_original.tsv", "Sentiment\tText", 'Negative\t"A ""bad"" one.<br />Really."', "Positive\tFine."
    )
    lines(tmp_path / "test_contrast.tsv", "Sentiment\tText", "Positive\tA good one.", "Negative\tAwful.")
    lines(tmp_path / "dev_original.tsv", "Sentiment\tText", "Positive\tFine.")
    original, contrast = load("imdb", tmp_path, "test"), load("imdb", tmp_path, "contrast")
    assert original[0].text == 'What is the sentiment of the following review?\nA "bad" one.<br />Really.'
    assert [q.answer for q in original + contrast] == ["negative", "positive", "positive", "negative"]
    assert [q.group for q in original] == [q.group for q in contrast] == ["imdb/test/0", "imdb/test/1"]
    assert load("imdb", tmp_path, "dev")[0].group is None, "without dev_contrast.tsv there are no pairs"


def test_imdb_pairs_do_not_depend_on_file_names(tmp_path):
    lines(tmp_path / "a.tsv", "Sentiment\tText", "Negative\tA bad one.", "Positive\tA fine one.")
    lines(tmp_path / "b.tsv", "Sentiment\tText", "Positive\tA good one.", "Negative\tA poor one.")
    files = {"files": {"test": "a.tsv", "contrast": "b.tsv"}}
    original, contrast = (load("imdb", tmp_path, split, options=files) for split in ("test", "contrast"))
    assert [q.group for q in original] == [q.group for q in contrast] == ["imdb/test/0", "imdb/test/1"]
    assert [q.group for q in load("imdb", tmp_path, "test", options={"files": {"test": "a.tsv"}})] == [None, None]


REVIEW = "The songs of this film are {} and so are the pictures of the sea, which I saw twice in one week."


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        (
            (("Positive", "good"), ("Positive", "fine")),
            "line 3: the answer is 'positive' as for the original 'imdb/test/1'",
        ),
        ((("Positive", "good"), ("Negative", "")), "line 3: shares 30% of its words with the original 'imdb/test/1'"),
        ((("Positive", "good"), ("Negative", "bad"), ("Positive", "x")), "line 4: there are only 2 originals"),
    ],
)
def test_files_of_imdb_that_are_not_aligned_are_refused(tmp_path, edits, message):
    lines(
        tmp_path / "test_original.tsv",
        "Sentiment\tText",
        *(f"{s}\t{REVIEW.format(s)}" for s in ("Negative", "Positive")),
    )
    rows = [
        f"{label}\t{REVIEW.format(word) if word else 'Nobody laughs at such jokes any more, least of all me.'}"
        for label, word in edits  # an empty word: a review that is no edit
    ]
    lines(tmp_path / "test_contrast.tsv", "Sentiment\tText", *rows)
    with pytest.raises(InputError) as refused:
        load("imdb", tmp_path, "contrast")
    assert message in str(refused.value)
    assert "name the original of every edit in a column original_id" in str(refused.value)


def test_rows_of_any_task_name_the_original_that_they_edit(tmp_path):
    row = {"question": "What barks?", "choices": ["cat", "dog"], "answerKey": "B", "id": "q7"}
    edit = row | {"question": "What purrs?", "answerKey": "A", "id": "q7-edit", "original_id": "test/q7"}
    lines(tmp_path / "test.jsonl", row, row | {"id": "q8"})
    lines(tmp_path / "contrast.jsonl", edit)
    questions = [q for split in ("test", "contrast") for q in load("multiple_choice", tmp_path, split)]
    assert [q.group for q in questions] == [None, None, "multiple_choice/test/q7"]
    [(name, members)] = contrast_groups(questions).items()
    assert (name, [q.id for q in members]) == (questions[0].id, [questions[0].id, questions[2].id])
    lines(tmp_path / "contrast.jsonl", edit | {"original_id": "q7"})
    with pytest.raises(InputError, match="contrast.jsonl line 1: original_id 'q7': expected SPLIT/ID"):
        load("multiple_choice", tmp_path, "contrast")


def test_full_imdb_is_a_folder_of_reviews(tmp_path):
    for name, text in (("neg/10_2.txt", "Bad."), ("neg/9_1.txt", "Awful."), ("pos/0_9.txt", "Good.\n")):
        (tmp_path / "train" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "train" / name).write_text(text)
    found = [(q.text.split("\n")[1], q.answer, q.group) for q in load("imdb", tmp_path, "train")]
    assert found == [("Awful.", "negative", None), ("Bad.", "negative", None), ("Good.", "positive", None)]


# -- Yes and no ------------------------------------------------------------------------------------------------------


def test_strategyqa_reads_a_list_with_facts(tmp_path):
    row = {"qid": "s1", "question": "Can a cow read?", "answer": False, "facts": ["Cows are animals.", "None reads."]}
    (tmp_path / "strategyqa_train.json").write_text(json.dumps([row]))
    task = load_task("strategyqa", config.Task(kind="strategyqa", path=str(tmp_path)), 0)
    [question] = task.questions("train")
    assert (question.id, question.answer, question.choices) == ("strategyqa/train/s1", "no", ("yes", "no"))
    [fact] = task.gold("train")
    assert (fact.rationale, fact.answer, fact.correct) == ("Cows are animals. None reads.", "no", True)
    assert fact.text == "Cows are animals. None reads. So the answer is: no"
    (tmp_path / "strategyqa_train.json").write_text(json.dumps([row])[:-1])
    with pytest.raises(InputError, match=r"strategyqa_train\.json line 1: not a complete JSON list"):
        load("strategyqa", tmp_path, "train")


def test_boolq_has_the_passage_as_context(tmp_path):
    lines(
        tmp_path / "train.jsonl", {"question": "do cows swim", "answer": True, "passage": "Cows  swim.", "title": "Cow"}
    )
    [question] = load("boolq", tmp_path, "train")
    assert (question.text, question.context, question.answer) == ("do cows swim?", "Cows swim.", "yes")


# -- Numbers ---------------------------------------------------------------------------------------------------------


def test_gsm8k_answers_follow_the_hashes(tmp_path):
    row = {"question": "Six times\nseven hundred?", "answer": "6*700 = <<6*700=4200>>4200.\nDone.\n#### 4,200"}
    lines(tmp_path / "train.jsonl", row)
    task = load_task("gsm8k", config.Task(kind="gsm8k", path=str(tmp_path)), 0)
    [question] = task.questions("train")
    assert (question.text, question.answer, question.choices) == ("Six times seven hundred?", "4200", ())
    assert [r.rationale for r in task.gold("train")] == ["6*700 = 4200. Done."]
    lines(tmp_path / "train.jsonl", {**row, "answer": "#### many"})
    with pytest.raises(InputError, match=r"train\.jsonl line 1: expected a number as answer, found ' many'"):
        load("gsm8k", tmp_path, "train")


def test_svamp_joins_body_and_question(tmp_path):
    row = {"ID": "chal-1", "Body": "Bo has 8 figs.", "Question": "How many are left after 3 meals?", "Answer": 5.0}
    (tmp_path / "SVAMP.json").write_text(json.dumps([row], indent=1))
    [question] = load("svamp", tmp_path, "test")
    assert question.text == "Bo has 8 figs. How many are left after 3 meals?"
    assert (question.id, question.answer) == ("svamp/test/chal-1", "5")


# -- Inference -------------------------------------------------------------------------------------------------------

NLI = (
    'Premise:\n"A dog runs."\nBased on this premise, can we conclude the hypothesis "An animal moves." is true?\n'
    "OPTIONS:\n- yes\n- no\n- it is not possible to tell"
)


def test_anli_prompt_matches_scotd(tmp_path):
    row = {"uid": "u1", "context": "A dog runs.", "hypothesis": "An animal moves.", "label": "e", "reason": ""}
    lines(tmp_path / "R3" / "train.jsonl", row, {**row, "uid": "u2", "label": "n"}, {**row, "uid": "u3", "label": "c"})
    lines(tmp_path / "R1" / "train.jsonl", {**row, "uid": "first"})
    questions = load("anli", tmp_path, "train")
    assert questions[0].text == NLI
    assert [q.answer for q in questions] == ["yes", "it is not possible to tell", "no"]
    question = load("anli", tmp_path, "train", format="t5")[0]
    assert FORMATS["t5"].question(question) == NLI.replace("\n", " ")
    assert load("anli", tmp_path, "train", options={"round": 1})[0].id == "anli/train/first"


def test_esnli_reads_two_tables_with_explanations(tmp_path):
    head = "pairID,gold_label,Sentence1,Sentence2,Explanation_1,Explanation_2"
    lines(tmp_path / "esnli_train_1.csv", head, 'p1,entailment,"A dog runs.",An animal moves.,"Dogs, too.",')
    lines(tmp_path / "esnli_train_2.csv", head, "p2,contradiction,A dog runs.,It sleeps.,No.,It runs.")
    task = load_task("esnli", config.Task(kind="esnli", path=str(tmp_path)), 0)
    first, second = task.questions("train")
    assert (first.text, first.answer, first.id) == (NLI, "yes", "esnli/train/p1")
    assert (second.answer, second.id) == ("no", "esnli/train/p2")
    rationales = [(r.question_id, r.sample_index, r.rationale) for r in task.gold("train")]
    assert rationales == [(first.id, 0, "Dogs, too."), (second.id, 0, "No."), (second.id, 1, "It runs.")]
    lines(tmp_path / "esnli_train_2.csv", head, "p2,neutral,A dog runs.")
    with pytest.raises(InputError, match=r"esnli_train_2\.csv line 2: 3 fields, but line 1 names 6: pairID"):
        load("esnli", tmp_path, "train")
    (tmp_path / "esnli_train_2.csv").write_text(f'{head}\np2,neutral,"A dog')
    with pytest.raises(InputError, match=r"esnli_train_2\.csv line 2: not a row"):
        load("esnli", tmp_path, "train")


# -- Files -----------------------------------------------------------------------------------------------------------


def test_gzipped_files_are_read_without_unpacking(tmp_path):
    path = tmp_path / "train.jsonl.gz"
    path.write_bytes(gzip.compress(b'\xef\xbb\xbf{"question": "1?", "answer": "#### 1"}\n'))
    assert load("gsm8k", tmp_path, "train")[0].answer == "1"
    assert [file.name for file in tmp_path.iterdir()] == ["train.jsonl.gz"]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match=r"train\.jsonl\.gz: not a complete gzip file"):
        load("gsm8k", tmp_path, "train")


def test_option_files_names_the_files(tmp_path):
    lines(tmp_path / "a-1.jsonl", {"question": "1?", "answer": "1"})
    lines(tmp_path / "a-2.jsonl", {"question": "2?", "answer": "2"})
    questions = load("gsm8k", tmp_path, "mine", options={"files": {"mine": "a-*.jsonl"}})
    assert [(q.id, q.answer) for q in questions] == [("gsm8k/mine/0", "1"), ("gsm8k/mine/1", "2")]
    lines(tmp_path / "a-2.jsonl", "{broken")
    assert len(load("gsm8k", tmp_path, "mine", options={"files": {"mine": "a-*.jsonl"}}, limit=1)) == 1
    with pytest.raises(InputError, match=r"config\.tasks\.gsm8k\.options\.files: .*b\.jsonl: no such file"):
        load("gsm8k", tmp_path, "mine", options={"files": {"mine": "b.jsonl"}})
    with pytest.raises(InputError, match=r"options\.files: expected a file name per split, found 'a\.jsonl'"):
        load("gsm8k", tmp_path, "mine", options={"files": "a.jsonl"})
    lines(tmp_path / "a.txt", "x")
    with pytest.raises(InputError, match=r"expected a file whose name ends with \.jsonl"):
        load("gsm8k", tmp_path, "mine", options={"files": {"mine": "a.txt"}})


def test_folder_without_the_official_files_is_refused(tmp_path):
    with pytest.raises(
        InputError, match=r"config\.tasks\.svamp\.path: .* holds none of the files train\.json, test\.js"
    ):
        load("svamp", tmp_path, "test")
    with pytest.raises(
        InputError, match=r"config\.tasks\.svamp\.path: needs the folder of its files, or datasets:NAME"
    ):
        load_task("svamp", config.Task(kind="svamp"), 0)
