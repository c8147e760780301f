"""Evaluates a model on a question set: accuracy with its confidence interval, and rate of responses without an answer.

python examples/evaluate.py                                # a random model on the embedded world
python examples/evaluate.py --model=FOLDER --task=openbookqa --path=data/openbookqa --split=test
"""

import argparse

import scotd_jax as scotd


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="", help="Hugging Face folder; a small random model by default")
    parser.add_argument("--recipe", default="scotd", help="recipe that defines prompts and the parsing of responses")
    parser.add_argument("--task", default="world", help="name of a task")
    parser.add_argument("--path", default="", help="folder of the task's files, or datasets:NAME")
    parser.add_argument("--split", default="test", help="split of the task")
    parser.add_argument("--questions", type=int, default=16, help="number of questions; 0 for all")
    args = parser.parse_args()

    task = scotd.load_task(args.task, path=args.path)
    questions = task.questions(args.split)[: args.questions or None]
    if args.model:
        model = scotd.load_pretrained(args.model, task, recipe=args.recipe)
    else:
        model = scotd.random_model("opt-tiny", task, recipe=args.recipe, max_position_embeddings=256)

    results = scotd.evaluate(model, questions, max_new_tokens=64)
    low, high = results["interval"]
    print(f"accuracy {100 * results['accuracy']:.1f} % of {results['n']} questions")
    print(f"confidence interval: {100 * low:.1f} to {100 * high:.1f} %")
    print(f"no answer in {100 * results['format_failure_rate']:.1f} % of the responses")
    if results["chance"] is not None:
        print(f"guessing would give {100 * results['chance']:.1f} %")


if __name__ == "__main__":
    main()
