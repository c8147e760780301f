"""Questions that belong together: contrast groups, and clusters of questions whose outcomes depend on each other."""

from collections import defaultdict
from collections.abc import Iterable

from scotd_jax.records import Question


def contrast_groups(questions: Iterable[Question]) -> dict[str, list[Question]]:
    """Returns the contrast groups of two or more members, by name in order of appearance.

    Questions with equal `task` and `group` form a group; other tasks may use the same name. Edits may also name their
    group by the id of the original question, which then belongs to the group although its own `group` is None.
    """
    questions = list(questions)
    grouped: dict[str, list[Question]] = defaultdict(list)
    for question, name in zip(questions, _group_names(questions), strict=True):
        if name is not None:
            grouped[name].append(question)
    return {name: members for name, members in grouped.items() if len(members) > 1}


def question_clusters(questions: Iterable[Question]) -> dict[str, str]:
    """Returns the cluster of every question: id of the question -> id of the first question of its cluster.

    Questions that share a contrast group, an original or a passage (`context`) are in one cluster, and so are questions
    that are connected through others. A model that errs on one of them is likely to err on the others, so that
    intervals and tests count clusters, not questions.
    """
    questions = list(questions)
    parent = list(range(len(questions)))  # a forest over the questions; the root of a cluster is its first question

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    first: dict[tuple[str, str | None], int] = {}
    for i, (question, group) in enumerate(zip(questions, _group_names(questions), strict=True)):
        for shared in (("", group), (question.task, question.context)):
            if shared[1]:
                low, high = sorted((root(first.setdefault(shared, i)), root(i)))
                parent[high] = low
    return {question.id: questions[root(i)].id for i, question in enumerate(questions)}


def _group_names(questions: list[Question]) -> list[str | None]:
    """The name of each question's contrast group over all tasks; None without one."""
    ids = {question.id for question in questions}
    names = [question.group and _global_name(question.group, question.task, ids) for question in questions]
    used = {name for name in names if name}
    return [
        name or (question.id if question.id in used else None) for question, name in zip(questions, names, strict=True)
    ]


def _global_name(group: str, task: str, ids: set[str]) -> str:
    return group if group in ids or group.startswith(f"{task}/") else f"{task}/{group}"
