"""The small chain with an evaluation and an export, for runs on several hosts."""

from tests.configs import small_chain


def get_config():
    config = small_chain.get_config()
    student, sampling = config.students.student, config.rationales.teacher.sampling
    student.update({"precision": "float32", "eval_sets": ("world.test",), "export": True})
    student.training.update({"steps": 8, "save_every": 8})
    config.evaluation.update(
        {"sampling": {**sampling, "n": 1, "temperature": 0.0}, "self_consistency": {**sampling, "n": 0}}
    )
    return config
