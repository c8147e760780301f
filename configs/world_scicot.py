"""Sci-CoT in the embedded world: one model for rationale and answer, compared with two separate stages.

    scotd-jax --config=world_scicot --workdir=runs/world_scicot

The first stage generates a rationale for a question, and the second stage the answer for question and rationale. The
second stage is trained either on rationales of the teacher or on cross-fitted ones, which for every fold are generated
by a first stage that was trained on the other folds. It is evaluated with rationales of the first stage, of the teacher
("oracle") and of other questions, with shuffled words, and without rationales.
"""

import dataclasses

from scotd_jax import config as c

FOLDS = 3
N = 10  # rationales per question for votes and sums at test time
RATE = 3e-3  # learning rate of the second stages, whose targets are short; chosen on the dev set of seed 0


def get_config(arg=None):
    settings = c.parse_arg(arg, seeds=3, kind="t5", runlocal=False)
    world = c.sibling(__file__, "world")
    config = c.merged([scicot(world, seed, settings.kind, prefix=f"s{seed}_") for seed in range(settings.seeds)])
    return c.config_dict(world.runlocal(config, arms=()) if settings.runlocal else config)


def scicot(world, seed: int, kind: str, prefix: str) -> c.Config:
    """Returns the world of one seed with label-only and one-stage students, first stages and second stages."""
    base = world.world(seed, {kind: ("label", "n30")}, prefix)
    task = f"{prefix}world"
    reported = tuple(f"{task}.{split}" for split in world.SETS)
    one_stage = base.students[f"{prefix}n30_{kind}"]

    def sampled(student: str, questions: tuple[str, ...], **changes) -> c.ModelSource:
        sampling = dataclasses.replace(world.SAMPLING, **changes)
        return c.ModelSource(
            questions=questions, model=c.Model(student=f"{prefix}{student}"), sampling=sampling, seed=seed
        )

    def student(name: str, rationales: tuple[str, ...], recipe: str, keep: str, questions: str, **rest) -> None:
        """Adds a student like the one-stage student, and its corpus."""
        corpora[name] = c.Corpus(
            recipe,
            rationales=tuple(f"{prefix}{source}" for source in rationales),
            questions=(questions,),
            keep=keep,
            decontaminate=0,
        )
        students[name] = dataclasses.replace(
            one_stage, corpus=f"{prefix}{name}", dev_sets=(), eval_sets=(), export=False, **rest
        )

    rationales, corpora, students = {}, {}, {}
    rationales["oracle"] = sampled("teacher", reported, temperature=0.0)
    student("stage1", ("sampled",), "rationale", "correct", f"{task}.train", arm="")
    for fold in range(FOLDS):
        student(f"stage1_{fold}", ("sampled",), "rationale", "correct", f"{task}.train@!{fold}/{FOLDS}", arm="")
        rationales[f"own_{fold}"] = sampled(f"stage1_{fold}", (f"{task}.train@{fold}/{FOLDS}",), n=N, temperature=1.0)
    rationales["greedy1"] = sampled("stage1", (f"{task}.dev", *reported), temperature=0.0)
    rationales["many1"] = sampled("stage1", reported, n=N, temperature=0.7)

    own = tuple(f"own_{fold}" for fold in range(FOLDS))
    rationales_from = (f"{prefix}greedy1",)
    student("stage2", ("sampled",), "infer", "correct", f"{task}.train", arm="two stages, the teacher's rationales")
    student("stage2_own", own, "infer", "all", f"{task}.train", arm="two stages, own rationales")
    for name in ("stage2", "stage2_own"):
        training = world.training(world.UPDATES[kind], 16, 2, RATE)
        changes = {
            "dev_sets": (f"{task}.dev",),
            "eval_sets": reported,
            "rationales_from": rationales_from,
            "training": training,
        }
        students[name] = dataclasses.replace(students[name], **changes)

    def evaluation(student: str, label: str, source: str = "greedy1", **rest) -> c.EvalSpec:
        arm = f"{students[student].arm}: {label}"
        return c.EvalSpec(f"{prefix}{student}", reported, arm, (f"{prefix}{source}",), **rest)

    evals = {}
    for name in ("stage2", "stage2_own"):
        evals |= {
            f"{name}_vote": evaluation(name, f"vote over {N}", "many1", n=N),
            f"{name}_sum": evaluation(name, f"summed over {N}", "many1", n=N, combine="marginal"),
            f"{name}_oracle": evaluation(name, "oracle", "oracle"),
            f"{name}_empty": evaluation(name, "empty", rationale_control="empty"),
            f"{name}_shuffled": evaluation(name, "shuffled", rationale_control="shuffled"),
            f"{name}_other": evaluation(name, "another question's", rationale_control="other"),
        }
    added = {"rationales": rationales, "corpora": corpora, "students": students, "evals": evals}
    named = {part: {f"{prefix}{key}": value for key, value in entries.items()} for part, entries in added.items()}
    config = c.merged([base, dataclasses.replace(c.Config(), **named)])
    return dataclasses.replace(config, name="Sci-CoT in the embedded world")
