"""Samples chains of thought from a model and keeps those with the right answer.

python examples/sample.py                                  # a random model, which gets no answer right
python examples/sample.py --model=FOLDER --few_shot=5 --task=commonsenseqa --path=data/commonsenseqa --split=train
"""

import argparse

import scotd_jax as scotd


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="", help="Hugging Face folder; a small random model by default")
    parser.add_argument("--few_shot", type=int, default=0, help="number of the task's examples before every prompt")
    parser.add_argument("--task", default="world", help="name of a task")
    parser.add_argument("--path", default="", help="folder of the task's files, or datasets:NAME")
    parser.add_argument("--split", default="test", help="split of the task")
    parser.add_argument("--questions", type=int, default=4, help="number of questions")
    parser.add_argument("--n", type=int, default=2, help="responses per question")
    args = parser.parse_args()

    task = scotd.load_task(args.task, path=args.path)
    questions = task.questions(args.split)[: args.questions]
    if args.model:
        model = scotd.load_pretrained(args.model, task, few_shot=args.few_shot)
    else:
        model = scotd.random_model("opt-tiny", task, max_position_embeddings=256)

    responses = scotd.sample(model, questions, n=args.n, temperature=0.7, max_new_tokens=64, seed=0)
    for response in responses:
        print(f"{response.question_id} #{response.sample_index}: {response.text!r} -> {response.answer}")
    kept = scotd.filter_responses(responses, keep="correct")
    print(f"{len(kept)} of {len(responses)} responses have the right answer")


if __name__ == "__main__":
    main()
