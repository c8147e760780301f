"""The output of `--list`: the packaged configs and the names that configs can use, each with one line of description.

The names are repeated here, so that `--list` is fast and does not import the registries. A test compares them with the
registries.
"""

from scotd_jax.config.packaged import packaged_configs

LISTING: dict[str, dict[str, str]] = {
    "Tasks (Task.kind)": {
        "world": "generated reasoning questions with gold rationales, a contrast set and unseen tasks",
        "jsonl": "questions in this package's own format, one JSON object per line",
        "multiple_choice": "rows with a question, labelled choices and an answer key",
        "commonsenseqa": "CommonsenseQA: commonsense, five choices",
        "openbookqa": "OpenBookQA: elementary science, four choices",
        "arc": "ARC Easy and Challenge: grade-school science, three to five choices",
        "quarel": "QuaRel: qualitative relationships, two choices",
        "sst2": "SST-2: sentiment of a sentence",
        "imdb": "IMDb: sentiment of a review, with the contrast set of Gardner et al.",
        "strategyqa": "StrategyQA: yes-or-no questions with implicit steps",
        "boolq": "BoolQ: yes-or-no questions about a passage",
        "gsm8k": "GSM8K: grade-school arithmetic, numeric answers",
        "svamp": "SVAMP: arithmetic word problems, numeric answers",
        "anli": "ANLI: adversarial natural language inference",
        "esnli": "e-SNLI: natural language inference with human explanations",
        "PATH.py": "your own task: a Python file that defines question(row)",
    },
    "Importers (FileSource.importer)": {
        "responses": "this package's responses-*.jsonl",
        "quarel_davinci003": "published rationales of text-davinci-003 for QuaRel",
        "openbookqa_multi": "published rationales of several teachers for OpenBookQA",
        "commonsenseqa_palm540b": "published rationales of PaLM-540B for CommonsenseQA",
        "scotd_30x": "SCoTD's csqa_30x.json, quarel_30x.json and openbook_30x.json",
        "reasoning_teacher": "CompletionDataset JSON of Fine-tune-CoT (Large language models are reasoning teachers)",
        "distilling_step_by_step": "SPLIT_CoT_k.json of Distilling step-by-step, with the rows of its dataset",
        "openai_batch": "results of OpenAI's batch interface, and of servers that follow it",
        "openai_responses": "bodies of chat completions and completions",
        "vllm": "RequestOutput dumps of vLLM, and the output of vllm run-batch",
        "distilabel": "rows of distilabel with one or more generations",
        "open_r1": "rows of Open-R1 with one or more generations",
        "sharegpt": "conversations",
        "prompt_completion": "rows with a prompt and a completion, as texts or messages",
        "PATH.py": "your own importer: a Python file that defines responses(row)",
    },
    "Recipes (Corpus.recipe)": {
        "scotd": "rationale, then answer (SCoTD, arXiv 2306.14050)",
        "label": "only the gold answer",
        "teacher_label": "only the teacher's answer",
        "answer_first": "answer, then rationale (arXiv 2406.14511)",
        "step_by_step": "label and rationale as two tasks with prefixes (Distilling step-by-step, arXiv 2305.02301)",
        "rationale": "question to rationale: the first stage of Sci-CoT (arXiv 2308.04679)",
        "infer": "question and rationale to answer: the second stage of Sci-CoT",
        "text": "the complete text of the response",
    },
    "Selections (Corpus.cap_by)": {
        "first": "the first samples",
        "random": "a random choice: the baseline",
        "likely": "the highest log-probability per token under the teacher",
        "open_ended": "more of the budget to questions with more varied responses; first samples",
        "diverse": "one response of each cluster of similar rationales",
        "shortest": "the fewest words",
        "longest": "the most words",
        "length_quantiles": "the median length, the shortest, the longest, and those between",
        "length_mix": "four short rationales to one long (arXiv 2502.12143)",
        "teacher_mix": "every teacher in turn; for corpora with the responses of several",
        "student_likely": "the highest log-probability per token under the student scored_by",
        "rank_surprisal": "the lowest rank-surprisal ratio under the student (arXiv 2601.14249)",
        "rationale_difficulty": "the gold answer is most likely after the rationale (arXiv 2509.23574)",
        "local_naturalness": "the most likely sentences, each after the one before (arXiv 2510.03988)",
    },
    "Prompt formats (Task.format, Corpus.format)": {
        "scotd": "Q: and A: on separate lines, as in SCoTD's code",
        "t5": "Question: and Answer: on one line, because T5's tokenizer drops newlines",
        "chat": "the question alone; for models that are prompted with a chat template",
        "plain": "lower case, all tokens separated by spaces; for the embedded world",
    },
    "Architectures (Model.architecture)": {
        "opt-tiny": "OPT for tests: 2 layers of width 64",
        **{
            f"opt-{size}": f"OPT decoder, {size.upper()} parameters"
            for size in ("125m", "350m", "1.3b", "2.7b", "6.7b")
        },
        **{f"opt-{size}": f"OPT decoder, {size.upper()} parameters" for size in ("13b", "30b", "66b")},
        "t5-tiny": "T5 for tests: 2 layers of width 64",
        "t5-small": "T5 encoder-decoder, 60M parameters",
        "t5-base": "T5 encoder-decoder, 220M parameters",
        "t5-large": "T5 encoder-decoder, 770M parameters",
        "t5-3b": "T5 encoder-decoder, 3B parameters",
        "t5-11b": "T5 encoder-decoder, 11B parameters",
        **{f"t5-v1.1-{size}": f"T5 v1.1 (gated GELU), {size}" for size in ("small", "base", "large", "xl", "xxl")},
        **{f"flan-t5-{size}": f"architecture of Flan-T5, {size}" for size in ("small", "base", "large", "xl", "xxl")},
        "decoder-tiny": "Llama-like decoder for tests: 2 layers of width 64",
        "llama-3.2-1b": "Llama 3.2 decoder, 1B parameters",
        "llama-3.1-8b": "Llama 3.1 decoder, 8B parameters",
        "llama-3.1-70b": "Llama 3.1 decoder, 70B parameters",
        "tinyllama-1.1b": "TinyLlama decoder, 1.1B parameters",
        "smollm2-135m": "SmolLM2 decoder, 135M parameters",
        "smollm2-360m": "SmolLM2 decoder, 360M parameters",
        "smollm2-1.7b": "SmolLM2 decoder, 1.7B parameters",
        "qwen2.5-0.5b": "Qwen 2.5 decoder, 0.5B parameters",
        "qwen2.5-1.5b": "Qwen 2.5 decoder, 1.5B parameters",
        "qwen2.5-7b": "Qwen 2.5 decoder, 7B parameters",
        "qwen3-0.6b": "Qwen 3 decoder, 0.6B parameters",
        "qwen3-1.7b": "Qwen 3 decoder, 1.7B parameters",
        "gemma-3-270m": "Gemma 3 decoder, 270M parameters",
        "gemma-3-1b": "Gemma 3 decoder, 1B parameters",
        "smollm3-3b": "SmolLM3 decoder, 3B parameters",
        "mistral-7b": "Mistral decoder, 7B parameters",
    },
}


def format_listing() -> str:
    """Returns the text that `--list` prints: a heading and one line per name."""
    blocks = []
    for heading, entries in {"Configs (--config)": packaged_configs(), **LISTING}.items():
        width = max(map(len, entries))
        blocks.append("\n".join([heading, *(f"  {name:{width}}  {about}" for name, about in entries.items())]))
    return "\n\n".join(blocks)
