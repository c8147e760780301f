"""Distills a teacher into a smaller student: sample, filter, train, evaluate, export.

python examples/distill.py                       # trains a teacher on the embedded world first
python examples/distill.py --teacher=FOLDER      # uses another teacher for the same questions
"""

import argparse

import scotd_jax as scotd

SIZE = {"max_position_embeddings": 128, "num_hidden_layers": 2}
TEACHER = SIZE | {"hidden_size": 96, "num_attention_heads": 3, "ffn_dim": 384}
STUDENT = SIZE | {"hidden_size": 64, "num_attention_heads": 2, "ffn_dim": 256}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="", help="Hugging Face folder; by default one is trained first")
    parser.add_argument("--output", default="", help="folder for the exported student; by default it is not exported")
    parser.add_argument("--steps", type=int, default=600, help="updates of each training")
    parser.add_argument("--questions", type=int, default=200, help="number of questions that the teacher answers")
    args = parser.parse_args()

    task = scotd.load_task("world", gold=2500)
    training = {"steps": args.steps, "learning_rate": 1e-2, "optimizer": "muon", "warmup_steps": args.steps // 15}

    def log(step: int, metrics: dict) -> None:
        print(f"  step {step}: loss {metrics['loss']:.3f}")

    if args.teacher:
        teacher = scotd.load_pretrained(args.teacher, task)
    else:
        teacher = scotd.random_model("opt-tiny", task, **TEACHER)
        batches = scotd.make_batches(teacher, task.questions("gold"), task.gold("gold"))
        teacher = scotd.train(teacher, batches, log=log, log_every=100, **training)

    questions = task.questions("train")[: args.questions]
    responses = scotd.sample(teacher, questions, n=4, temperature=1.0, max_new_tokens=64, seed=0)
    kept = scotd.filter_responses(responses, keep="correct")
    print(f"kept {len(kept)} of {len(responses)} responses")

    if not kept:  # with few steps the teacher gets no answer right; the example continues with gold rationales
        questions, kept = task.questions("gold"), task.gold("gold")

    student = scotd.random_model("opt-tiny", task, **STUDENT)
    batches = scotd.make_batches(student, questions, kept, group_size=2)
    student = scotd.train(student, batches, log=log, log_every=100, **training)

    results = scotd.evaluate(student, task.questions("test")[:64], max_new_tokens=64)
    print(f"accuracy {100 * results['accuracy']:.1f} % of {results['n']} questions")
    if args.output:
        scotd.save_pretrained(student, args.output)


if __name__ == "__main__":
    main()
