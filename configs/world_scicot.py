"""Sci-CoT in the embedded world: one model that reasons and answers against two, of which one reasons for the other.

    python -m scotd_jax.main --config=configs/world_scicot.py --workdir=runs/world_scicot

The first stage learns question to rationale, the second question with rationale to answer. The second one learns either
from the teacher's rationales or from the first stage's own, which are cross-fitted: those of a fold are said by a first
stage that learnt from the other folds. It is then asked with rationales of the first stage, of the teacher ("oracle"),
with none, and with the first stage's in shuffled order of words.
"""

import dataclasses

from scotd_jax import config as c

FOLDS = 3
N = 10  # rationales at test time where there are several
RATE = 3e-3  # of the second stages, which say a word or two, as labels alone are learnt with; chosen on dev, seed 0


def get_config(arg=None):
    a = c.parse_arg(arg, seeds=3, kind="t5", runlocal=False)
    one = c.sibling(__file__, "world")
    config = c.merged([scicot(one, seed, a.kind, prefix=f"s{seed}_") for seed in range(a.seeds)])
    return c.config_dict(one.runlocal(config, arms=()) if a.runlocal else config)


def scicot(one, seed: int, kind: str, prefix: str) -> c.Config:
    """The world of one seed with label-only and one-stage students, two first stages and their second ones."""
    base = one.world(seed, {kind: ("label", "n30")}, prefix)
    task = f"{prefix}world"
    reported = tuple(f"{task}.{split}" for split in one.SETS)
    one_stage = base.students[f"{prefix}n30_{kind}"]

    def said(student: str, questions: tuple[str, ...], **how) -> c.ModelSource:
        speak = dataclasses.replace(one.SPEAK, **how)
        return c.ModelSource(
            questions=questions, model=c.Model(student=f"{prefix}{student}"), sampling=speak, seed=seed
        )

    def student(name: str, rationales: tuple[str, ...], recipe: str, keep: str, questions: str, **rest) -> None:
        """A student like the one-stage one, and its corpus."""
        corpora[name] = c.Corpus(
            recipe,
            rationales=tuple(f"{prefix}{each}" for each in rationales),
            questions=(questions,),
            keep=keep,
            decontaminate=0,
        )
        students[name] = dataclasses.replace(
            one_stage, corpus=f"{prefix}{name}", dev_sets=(), eval_sets=(), export=False, **rest
        )

    rationales, corpora, students = {}, {}, {}
    rationales["oracle"] = said("teacher", reported, temperature=0.0)
    student("stage1", ("sampled",), "rationale", "correct", f"{task}.train", arm="")
    for fold in range(FOLDS):
        student(f"stage1_{fold}", ("sampled",), "rationale", "correct", f"{task}.train@!{fold}/{FOLDS}", arm="")
        rationales[f"own_{fold}"] = said(f"stage1_{fold}", (f"{task}.train@{fold}/{FOLDS}",), n=N, temperature=1.0)
    rationales["greedy1"] = said("stage1", (f"{task}.dev", *reported), temperature=0.0)
    rationales["many1"] = said("stage1", reported, n=N, temperature=0.7)

    own = tuple(f"own_{fold}" for fold in range(FOLDS))
    given = (f"{prefix}greedy1",)
    student("stage2", ("sampled",), "infer", "correct", f"{task}.train", arm="two stages, the teacher's rationales")
    student("stage2_own", own, "infer", "all", f"{task}.train", arm="two stages, own rationales")
    for name in ("stage2", "stage2_own"):
        training = one.train(one.UPDATES[kind], 16, 2, RATE)
        reads = {"dev_sets": (f"{task}.dev",), "eval_sets": reported, "rationales_from": given, "training": training}
        students[name] = dataclasses.replace(students[name], **reads)

    def asking(student: str, how: str, source: str = "greedy1", **rest) -> c.EvalSpec:
        arm = f"{students[student].arm}: {how}"
        return c.EvalSpec(f"{prefix}{student}", reported, arm, (f"{prefix}{source}",), **rest)

    evals = {}
    for name in ("stage2", "stage2_own"):
        evals |= {
            f"{name}_vote": asking(name, f"vote over {N}", "many1", n=N),
            f"{name}_sum": asking(name, f"summed over {N}", "many1", n=N, combine="marginal"),
            f"{name}_oracle": asking(name, "oracle", "oracle"),
            f"{name}_empty": asking(name, "empty", rationale_control="empty"),
            f"{name}_shuffled": asking(name, "shuffled", rationale_control="shuffled"),
            f"{name}_other": asking(name, "another question's", rationale_control="other"),
        }
    more = {"rationales": rationales, "corpora": corpora, "students": students, "evals": evals}
    named = {part: {f"{prefix}{key}": value for key, value in entries.items()} for part, entries in more.items()}
    config = c.merged([base, dataclasses.replace(c.Config(), **named)])
    return dataclasses.replace(config, name="Sci-CoT in the embedded world")
