"""Documents of the local tasks of lm-eval, and the scoring of their responses, by the functions of scotd_jax."""

from typing import Any

from scotd_jax import load_task
from scotd_jax.records import Question
from scotd_jax.tasks.prompt_formats import get_prompt_format, is_correct


def quarel(path: str = "", format: str = "scotd", **_: Any) -> Any:
    """Returns the test questions of QuaRel. The arguments are those of --metadata."""
    return _documents("quarel", path, format, "test")


def imdb_contrast(path: str = "", format: str = "scotd", **_: Any) -> Any:
    """Returns the questions of the contrast set of IMDb."""
    return _documents("imdb", path, format, "contrast")


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Returns whether the answer of a response is right; one that cannot be parsed is wrong."""
    question = Question(doc["id"], "", "", doc["question"], tuple(doc["choices"]), doc["answer"])
    answer = get_prompt_format(doc["format"]).parse(results[0], question).answer
    return {"acc": float(is_correct(answer, question) is True)}


def _documents(kind: str, path: str, prompt_format: str, split: str) -> Any:
    import datasets

    form = get_prompt_format(prompt_format, "--metadata format")
    rows = [
        {
            "id": question.id,
            "question": question.text,
            "prompt": form.prompt(question),
            "choices": list(question.choices),
            "answer": question.answer,
            "format": prompt_format,
        }
        for question in load_task(kind, path=path).questions(split)
    ]
    return datasets.DatasetDict({"test": datasets.Dataset.from_list(rows)})
