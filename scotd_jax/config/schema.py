"""The config schema: every key that a config file may hold, as frozen dataclasses, each with its unit.

Standard library only, so that `--help` is fast.
"""

import dataclasses
from typing import Any, Literal

from scotd_jax.errors import InputError

Names = tuple[str, ...]
RationaleControl = Literal["own", "shuffled", "other", "empty"]


@dataclasses.dataclass(frozen=True)
class Task:
    """Where questions come from. Question sets are referred to as "NAME.SPLIT", NAME being this entry's key."""

    kind: str = "world"  # a task of tasks/registry.py, or the path of a Python file that defines one
    format: str = ""  # how prompts and answers are written (tasks/prompt_formats.py); "" is the task's own
    path: str = ""  # folder of its files, or "datasets:NAME" or "tfds:NAME" with their configuration after a "/"
    exemplars: str = ""  # worked examples: a name of tasks/exemplars or a file; "" is the task's own
    limit: int = 0  # first questions of every split only; 0 is all
    seed: int = 0  # of a generated task; added to the config's
    title: str = ""  # how reports call it; tasks of one title share their columns. "" is this entry's key
    options: dict[str, Any] = dataclasses.field(default_factory=dict)  # arguments of the task itself


@dataclasses.dataclass(frozen=True)
class Model:
    """Where a model comes from: exactly one of `architecture` (random weights), `path` and `student`."""

    architecture: str = ""  # a preset of models/registry.py: "opt-125m", "t5-small", "opt-tiny", ...
    overrides: dict[str, Any] = dataclasses.field(default_factory=dict)  # overrides of the preset's fields
    path: str = ""  # Hugging Face directory with weights
    student: str = ""  # a student of this run, its best checkpoint
    tokenizer: str = ""  # directory or file; "task:NAME,..." trains one on the tasks' texts; "" is the model's own
    chat: bool = False  # asked by the tokenizer's chat template, exemplars being earlier turns; so for its students


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How a model speaks."""

    n: int = 1  # responses per question
    temperature: float = 1.0  # 0 is greedy
    top_k: int = 0  # keep the k most likely tokens; 0 is all
    top_p: float = 1.0  # keep the smallest set of tokens with this much probability
    max_new_tokens: int = 256
    batch_size: int = 32  # questions that are answered at a time, each by n rows, over all devices
    bucket: int = 32  # prompts are padded to multiples of this; one compilation per multiple
    chunk: int = 8  # tokens between two looks at which rows have ended; these then begin another sample


@dataclasses.dataclass(frozen=True)
class Server:
    """A model behind an OpenAI-compatible interface (vLLM, SGLang, llama.cpp, an API). Its key stays out of configs."""

    url: str = ""  # up to the version, "http://localhost:8000/v1"; batch files need none
    model: str = ""  # its name there
    kind: Literal["completions", "chat"] = "completions"  # chat: exemplars and question become turns of a talk
    n_per_request: int = 0  # samples asked for in one request; 0 is all of a question
    concurrency: int = 8  # requests at a time, of each process
    timeout: float = 600.0  # seconds without a byte after which a request is given up
    retries: int = 6  # of a request, with growing pauses between
    key_env: str = ""  # NAME of the environment variable that holds the key; "" sends none
    extra_body: dict[str, Any] = dataclasses.field(
        default_factory=dict
    )  # more fields of every request; None takes one out


@dataclasses.dataclass(frozen=True)
class Rationales:
    """One set of responses: said by a model here or elsewhere, by the task itself (gold), or read from files."""

    source: Literal["model", "server", "batch", "task", "file"] = "model"  # batch: files for a batch interface
    questions: Names = ()  # question sets that are asked
    model: Model = Model()  # source "model"
    server: Server = Server()  # sources "server" and "batch"
    sampling: Sampling = Sampling()
    recipe: str = ""  # how a model is asked and read; "" as it was taught, or as SCoTD asks its teacher
    few_shot: int = 0  # how many of the task's exemplars come before every question to a model
    path: str = ""  # sources "file" and "batch": files, also with *, in the order of the numbers in their names
    importer: str = "responses"  # source "file": what kind of files (rationales/importers)
    options: dict[str, Any] = dataclasses.field(default_factory=dict)  # arguments of the importer; "think" of a model
    release: Literal["", "jsonl", "parquet"] = ""  # also written as a dataset for others, with a card
    seed: int = 0  # added to the config's


@dataclasses.dataclass(frozen=True)
class Part:
    """One kind of example that a question and its responses make. Both texts are templates (tasks/recipes.py)."""

    prompt: str = "{prompt}"
    target: str = "{rationale}{marker}{answer}"
    weight: float = 1.0  # of the mean loss of this part's tokens in the loss of a batch


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a student learns from a question and its kept responses, and how it is asked afterwards."""

    parts: dict[str, Part] = dataclasses.field(default_factory=lambda: {"train": Part()})
    prompt: str = "{prompt}"  # prompt, a template as in `Part`
    parse_as: Literal["response", "answer_first", "choice", "rationale"] = "response"  # how its responses are read


@dataclasses.dataclass(frozen=True)
class Corpus:
    """What a student reads, made of rationales by filter and selection.

    It is encoded with the tokenizer, and for the kind of model, of the students that read it: they must share both.
    """

    recipe: str = "scotd"  # what is made of a question and its responses: one of tasks/recipes.py or Config.recipes
    format: str = ""  # in which its students read, say and are asked (tasks/prompt_formats.py); "" is the task's
    rationales: Names = ()  # sets of responses, one after the other; recipes that use none need none
    questions: Names = ()  # question sets; () is those of the rationales
    few_shot: int = 0  # how many of the task's exemplars come before every prompt, in training and when asked
    n: int = 0  # first n samples of every question, before filtering; 0 is all (subsets are nested)
    keep: Literal["correct", "all", "wrong"] = "correct"
    rationale_control: RationaleControl = (
        "own"  # controls: each response's words shuffled, another question's rationale, or none
    )
    dedup: bool = False  # drop responses of equal text to the same question
    near_duplicates: float = 1.0  # drop those that share more than this part of their word trigrams with a kept one
    min_response_tokens: int = 0
    max_prompt_tokens: int = 700
    max_response_tokens: int = 256
    cap: int = 0  # at most so many kept per question; 0 is all
    cap_by: Literal["first", "random", "likely"] = "first"  # which; "likely" by log-probability per token
    balance: Literal["questions", "responses"] = "questions"  # what comes equally often in training
    decontaminate: int = 13  # drop questions that share so many words in a row with a dev or reported one; 0 is off
    shards: int = 4
    processes: int = 1  # that build it, on each host; the bytes are the same


@dataclasses.dataclass(frozen=True)
class Optimizer:
    name: Literal["adamw", "adafactor", "muon"] = "adamw"
    learning_rate: float = 2e-5
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup_steps: int = 500
    final_fraction: float = 0.0  # of the peak rate, at the last step
    b1: float = 0.9  # b1, b2 and eps: of adamw, and of what muon leaves to Adam; adafactor has none of them
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0  # of matrices; by muon of its kernels alone
    clip_norm: float = 1.0  # global norm of the gradient; 0 is off
    moments: Literal["float32", "bfloat16"] = "float32"  # how first moments are kept (training/optimizer.py)


@dataclasses.dataclass(frozen=True)
class LoRA:
    """Two thin matrices learn in place of every target: kernel + alpha / rank * A @ B (training/trainable.py)."""

    rank: int = 0  # columns of A and rows of B; 0 is off: everything learns
    alpha: float = 16.0
    targets: Names = (r"(.*/)?(attn|cross)/[qkvo]/kernel", r"(.*/)?mlp/[^/]+/kernel")  # paths, as in `freeze`


@dataclasses.dataclass(frozen=True)
class Training:
    steps: int = 1000
    batch_size: int = 32  # questions per step, over all devices
    group_size: int = 1  # responses per question and visit; 1 is the paper's rule
    microbatches: int = 1
    optimizer: Optimizer = Optimizer()
    freeze: Names = ()  # parameters that stay as they are: regular expressions of whole paths, "layers/[0-5]/.*"
    lora: LoRA = LoRA()
    eval_every: int = 0  # steps between dev evaluations; 0 is only at the end
    save_every: int = 0  # steps between checkpoints; 0 is at evaluations only
    log_every: int = 20
    max_to_keep: int = 2  # last checkpoints kept, besides the best
    tensorboard: bool = False  # needs the extra "tensorboard"
    remat: Literal["none", "dots", "full"] = "none"  # recomputed in the backward pass (models/forward_options.py)
    # One loop over the layers, of which XLA then compiles one (models/layer_scan.py). "auto": on TPUs and GPUs
    scan_layers: Literal["auto", "on", "off"] = "auto"
    attention: Literal["xla", "fused"] = "xla"  # "fused": scores stay on the chip, TPUs only (models/kernels)
    dropout: float = 0.0  # share of what attention and MLP add to a token that is dropped (models/forward_options.py)
    label_smoothing: float = 0.0  # share of the target's probability that is spread over the vocabulary
    z_loss: float = 0.0  # weight of log(Z) ** 2 in the objective; PaLM's is 1e-4
    balance_window: int = 16  # batches whose questions are dealt out to them so that all are of a size; 1 is off
    max_shapes: int = 5  # at most so many shapes of batches, each compiled once; 1 is the one that everything fits into
    startup_check: bool = True  # at the start: grouped and packed responses compute what separate pairs compute

    def __post_init__(self):
        for name, below in (("dropout", 1), ("label_smoothing", 1), ("z_loss", float("inf"))):
            value = getattr(self, name)
            if not 0 <= value < below:
                raise InputError(f"training.{name} is {value}; expected at least 0 and less than {below}, 0 being off")
        for name in ("steps", "batch_size", "group_size", "microbatches", "balance_window", "max_shapes", "log_every"):
            if (value := getattr(self, name)) < 1:
                raise InputError(f"training.{name} is {value}; expected at least 1")


@dataclasses.dataclass(frozen=True)
class Student:
    """One model that is trained. The embedded world's teacher and base model are students too."""

    model: Model = Model()
    corpus: str = ""
    training: Training = Training()
    dev_sets: Names = ()  # question sets on which the best checkpoint is chosen; never one that is reported
    eval_sets: Names = ()  # question sets that are reported; () is not evaluated
    rationales_from: Names = ()  # sets of responses whose rationales it reads when asked, if its recipe asks so
    arm: str = ""  # row of the report; students of one arm are averaged (seeds). "" is the student's name
    export: bool = False
    seed: int = 0  # added to the config's
    precision: Literal["bfloat16", "float32"] = "bfloat16"


@dataclasses.dataclass(frozen=True)
class EvalSpec:
    """One more way of asking a student than its own (`Student.eval_sets`), and one more row of the report."""

    student: str = ""
    eval_sets: Names = ()  # question sets
    arm: str = ""  # row of the report; "" is the name of this entry
    rationales_from: Names = ()  # sets of responses whose rationales it reads; () is the student's
    rationale_control: RationaleControl = "own"  # what becomes of them before
    n: int = 1  # first n rationales of every question
    few_shot: int = -1  # exemplars before every prompt; -1: as it was taught
    combine: Literal["vote", "marginal"] = "vote"  # majority of n answers, or largest sum of n probabilities


@dataclasses.dataclass(frozen=True)
class Evaluation:
    sampling: Sampling = Sampling(temperature=0.0)  # the reported accuracy
    self_consistency: Sampling = Sampling(n=0, temperature=0.7)  # n > 0: vote over n samples besides
    dev_questions: int = 128  # during training, of all dev sets in turn; 0 is all
    limit: int = 0  # first questions of every reported set only; 0 is all
    confidence: float = 0.95


@dataclasses.dataclass(frozen=True)
class Mesh:
    """Devices along each axis; one of them may be -1: whatever is left."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1


@dataclasses.dataclass(frozen=True)
class Profile:
    """Which steps are recorded: updates of every student (students/NAME/profile), and batches of finished samples of
    every model that is asked (rationales/NAME/profile, evaluations/NAME/profile). Changes no result."""

    first: int = 0  # number of the first recorded step, from 1; 0 is off
    last: int = 0  # of the last one; 0 is the same one


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the plan job reckons with (jobs/plan.py); nothing else reads it."""

    topology: str = ""  # "v5e-16", "v5p-128" (Google's names), "h200-8" (GPUs), or "cpu-8" to try the job itself
    questions: int = 10_000  # of a set whose files are not here
    prompt_tokens: int = 0  # of the longest question to a speaker; 0: the max_prompt_tokens of corpora it speaks for
    exemplar_tokens: int = 128  # of one worked example
    response_tokens: int = 0  # of a sample, on average; 0: as many as it may have
    efficiency: float = 0.4  # share of the chips' FLOP/s that is assumed to be reached
    bandwidth: float = 0.7  # share of their memory's bandwidth
    # Of a model of more, programs whose layers are not rolled into a loop (training.scan_layers; asking never does) are
    # compiled with half as many and with as many, and the rest follows; 0: whole, which takes XLA for TPUs long
    compile_layers: int = 4


@dataclasses.dataclass(frozen=True)
class Config:
    name: str = ""
    seed: int = 0
    tasks: dict[str, Task] = dataclasses.field(default_factory=dict)
    rationales: dict[str, Rationales] = dataclasses.field(default_factory=dict)
    recipes: dict[str, Recipe] = dataclasses.field(default_factory=dict)  # besides those of tasks/recipes.py
    corpora: dict[str, Corpus] = dataclasses.field(default_factory=dict)
    students: dict[str, Student] = dataclasses.field(default_factory=dict)
    evals: dict[str, EvalSpec] = dataclasses.field(default_factory=dict)
    evaluation: Evaluation = Evaluation()
    mesh: Mesh = Mesh()
    profile: Profile = Profile()
    plan: Plan = Plan()
