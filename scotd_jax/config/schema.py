"""Config schema: every key of a config file, as frozen dataclasses.

The comment of a field is on its line or on the lines directly above it, where the generator of the configuration
reference finds it. It states what the field does, its unit, and the meaning of special values (0, -1, ""). Names of
question sets have the form "TASK.SPLIT", where TASK is a key of `Config.tasks`.

Standard library only, so that `--help` is fast.
"""

import dataclasses
from typing import Any, Literal

from scotd_jax.config.evaluation_schema import RESULT_COLUMNS, EvalSpec, Evaluation, RationaleControl
from scotd_jax.config.rationale_sources import Model, Names, RationaleSource
from scotd_jax.errors import FieldError


@dataclasses.dataclass(frozen=True)
class Task:
    """Where questions come from."""

    kind: str = "world"  # name of a task in tasks/registry.py, or path of a Python file that defines one
    format: str = ""  # prompt format: a name of tasks/prompt_formats.py; "" is the task's own
    path: str = ""  # folder of its files, or "datasets:NAME" or "tfds:NAME" with the configuration after a "/"
    exemplars: str = ""  # few-shot examples: a name of tasks/exemplars or a file; "" is the task's own
    limit: int = 0  # number of questions to keep from the start of every split; 0 is all
    seed: int = 0  # seed of a generated task; added to the seed of the config
    title: str = ""  # column title in reports; tasks with the same title share columns; "" is this entry's name
    # Shorten longer questions to this many tokens, at the end of their passage (`context`) or else of their text; 0 is
    # off.
    max_tokens: int = 0
    tokenizer: str = ""  # tokenizer that counts these tokens: a path or a name on the Hub; "" counts words
    options: dict[str, Any] = dataclasses.field(default_factory=dict)  # arguments of the task

    def __post_init__(self):
        if self.max_tokens < 0:
            raise FieldError("Task", "max_tokens", f"expected at least 0 (off), found {self.max_tokens}")
        if self.tokenizer and not self.max_tokens:
            raise FieldError("Task", "tokenizer", "only counts the tokens of max_tokens, which is not set; set it too")


@dataclasses.dataclass(frozen=True)
class Part:
    """One kind of training example of a recipe. Prompt and target are templates (tasks/recipes.py)."""

    prompt: str = "{prompt}"  # template of the input
    target: str = "{rationale}{marker}{answer}"  # template of the output that is trained on
    weight: float = 1.0  # weight of this part's mean loss per token in the loss of a batch


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How training examples are made from questions and responses, and how the trained student is prompted."""

    parts: dict[str, Part] = dataclasses.field(default_factory=lambda: {"train": Part()})  # kinds of examples by name
    prompt: str = "{prompt}"  # template of the prompt at evaluation
    # How a response of the student is parsed: rationale and answer, answer and rationale, the text of a choice, or a
    # rationale alone.
    parse_as: Literal["response", "answer_first", "choice", "rationale"] = "response"


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Training examples of a student: rationales after filters and selection.

    All students that train on a corpus must share the tokenizer and model kind with which it is encoded.
    """

    recipe: str = "scotd"  # recipe of the examples: a name of tasks/recipes.py or of Config.recipes
    format: str = ""  # prompt format of its students, in training and evaluation; "" is the task's own
    rationales: Names = ()  # sets of responses, concatenated; () for recipes that use none, such as "label"
    questions: Names = ()  # question sets; () is the question sets of the rationales
    few_shot: int = 0  # few-shot examples before every prompt, in training and evaluation
    n: int = 0  # use only the first n responses to every question, before filters; 0 is all
    # Responses to keep, by their answer. Truncated responses are always dropped. Responses without a rationale are
    # dropped if the recipe trains on rationales.
    keep: Literal["correct", "all", "wrong"] = "correct"
    # Control experiments: "truncated" keeps the first half of each rationale, "shuffled" permutes its words, "other"
    # takes another question's rationale, "empty" removes it; "own" changes nothing.
    rationale_control: RationaleControl = "own"
    dedup: bool = False  # drop responses with the same text as another response to the question
    # Drop responses that share more than this fraction of their word trigrams with a kept response; 1.0 is off.
    near_duplicates: float = 1.0
    min_response_tokens: int = 0  # drop shorter responses, in tokens
    max_prompt_tokens: int = 700  # drop questions with longer prompts, in tokens
    max_response_tokens: int = 256  # drop longer responses, in tokens
    cap: int = 0  # maximum number of responses to keep per question; 0 is all
    cap_by: str = "first"  # which to keep: a selection of rationales/selections.py, e.g. "random", "likely", "diverse"
    scored_by: str = ""  # student whose scores a selection such as "rank_surprisal" compares; "" is none
    max_responses: int = 0  # number of responses in the corpus, at random from those that pass all filters; 0 is all
    balance: Literal["questions", "responses"] = "questions"  # items that occur equally often in training
    # Task -> share of its questions in training, relative to the other tasks; {} lets every task count by its size.
    mixture: dict[str, float] = dataclasses.field(default_factory=dict)
    # Drop questions that share this many consecutive words with a question that its students are evaluated on; 0 is
    # off.
    decontaminate: int = 13
    shards: int = 4  # TFRecord files per part
    processes: int = 1  # processes that build the corpus on each host; do not affect the files

    def __post_init__(self):
        for name in ("cap", "max_responses"):
            if (value := getattr(self, name)) < 0:
                raise FieldError("Corpus", name, f"expected at least 0 (off), found {value}")
        if self.cap_by != "first" and not self.cap:
            problem = f"{self.cap_by!r} selects nothing without a budget; set cap, the responses to keep per question"
            raise FieldError("Corpus", "cap_by", problem)


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """The optimizer and its learning rate schedule."""

    name: Literal["adamw", "adafactor", "muon"] = "adamw"  # optimizer (training/optimizer.py)
    learning_rate: float = 2e-5  # peak learning rate
    schedule: Literal["linear", "cosine", "constant"] = "linear"  # after warm-up
    warmup_steps: int = 500  # steps of linear warm-up from 0
    final_fraction: float = 0.0  # learning rate at the last step, as a fraction of the peak
    b1: float = 0.9  # decay of the first moments of adamw, and of Adam for the parameters that muon does not update
    b2: float = 0.999  # decay of the second moments, for the same parameters as b1
    eps: float = 1e-8  # added to the denominator, for the same parameters as b1
    weight_decay: float = 0.0  # decoupled weight decay of matrices; with muon only of those that muon updates
    clip_norm: float = 1.0  # maximum global norm of the gradient; 0 is off
    moments: Literal["float32", "bfloat16"] = "float32"  # type of the stored first moments


@dataclasses.dataclass(frozen=True)
class LoRA:
    """Low-rank adaptation: each target is kernel + alpha / rank * A @ B, and only A and B are trained."""

    rank: int = 0  # rank of A @ B; 0 is off, so that all parameters are trained
    alpha: float = 16.0  # scale of the update
    # Kernels to adapt: regular expressions of whole paths, see Training.freeze.
    targets: Names = (r"(.*/)?(attn|cross)/[qkvo]/kernel", r"(.*/)?mlp/[^/]+/kernel")


@dataclasses.dataclass(frozen=True)
class Training:
    """How a student is trained."""

    steps: int = 1000  # updates
    batch_size: int = 32  # questions per update, over all devices
    group_size: int = 1  # responses of a question per update; the papers use 1
    microbatches: int = 1  # parts of a batch whose gradients are accumulated one after another
    optimizer: Optimizer = Optimizer()  # optimizer and learning rate schedule
    freeze: Names = ()  # parameters to keep fixed: regular expressions of whole paths, "layers/[0-5]/.*"
    lora: LoRA = LoRA()  # low-rank adaptation
    eval_every: int = 0  # updates between evaluations on dev_sets; 0 is only at the end
    save_every: int = 0  # updates between checkpoints; 0 is only at evaluations
    save_minutes: float = 15.0  # also save if the last checkpoint is this old, in minutes; 0 is off
    # What to do if the loss, the gradient or the parameters after an update are not finite, or the parameters explode:
    # end the run, skip the update, or return to the last checkpoint and continue with the batches that follow.
    on_divergence: Literal["stop", "skip", "rewind"] = "stop"
    log_every: int = 20  # updates between logged metrics
    max_to_keep: int = 2  # latest checkpoints to keep, besides the best
    tensorboard: bool = False  # also write metrics for TensorBoard; needs the extra "tensorboard"
    wandb: str = ""  # project of Weights & Biases that also receives the metrics; "" is off; needs the extra "wandb"
    mlflow: str = ""  # experiment of MLflow that also receives the metrics; "" is off; needs the extra "mlflow"
    remat: Literal["none", "dots", "full"] = "none"  # activations to recompute in the backward pass
    # Scan over the layers, so that XLA compiles only one (models/layer_scan.py); "auto" is on for TPUs and GPUs.
    scan_layers: Literal["auto", "on", "off"] = "auto"
    # "fused" are kernels that keep attention scores on the chip; "auto" uses them on TPUs and GPUs if they pass the
    # startup check there, and "xla" otherwise.
    attention: Literal["auto", "xla", "fused"] = "auto"
    dropout: float = 0.0  # probability of dropping an element of an attention or MLP output
    label_smoothing: float = 0.0  # share of the target probability that is spread over the vocabulary
    z_loss: float = 0.0  # weight of log(Z) ** 2 in the loss; PaLM uses 1e-4
    # Pass over the questions from those on which the responses of the corpus agree most to those on which they agree
    # least, in every epoch; with balance_window > 1, the batches of a window remain in random order.
    curriculum: bool = False
    balance_window: int = 16  # number of batches that exchange questions to balance lengths; 1 is off
    max_shapes: int = 5  # maximum number of batch shapes, each compiled once; 1 is a single shape for all batches
    startup_check: bool = True  # compare grouped and packed responses with separate pairs before the first update

    def __post_init__(self):
        for name, below in (("dropout", 1), ("label_smoothing", 1), ("z_loss", float("inf"))):
            if not 0 <= (value := getattr(self, name)) < below:
                expected = f"expected at least 0 (off) and less than {below}, found {value}"
                raise FieldError("Training", name, expected)
        if not self.save_minutes >= 0:
            raise FieldError("Training", "save_minutes", f"expected at least 0 (off), found {self.save_minutes}")
        counts = ("steps", "batch_size", "group_size", "microbatches", "balance_window", "max_shapes", "log_every")
        for name in counts:
            if (value := getattr(self, name)) < 1:
                raise FieldError("Training", name, f"expected at least 1, found {value}")


@dataclasses.dataclass(frozen=True)
class Student:
    """A model to train. The teacher and base models of the embedded world are students too."""

    model: Model = Model()  # the model that training starts from
    corpus: str = ""  # name of the corpus to train on
    training: Training = Training()  # how it is trained
    dev_sets: Names = ()  # question sets on which the best checkpoint is chosen; must not be reported
    eval_sets: Names = ()  # question sets to evaluate on and report; () is no evaluation
    rationales_from: Names = ()  # sets of responses with the rationales in prompts, for recipes that need one
    arm: str = ""  # row of the report; students with the same arm are averaged over seeds; "" is the student's name
    export: bool = False  # also write a directory that PyTorch transformers loads
    seed: int = 0  # added to the seed of the config
    precision: Literal["bfloat16", "float32"] = "bfloat16"  # compute type; parameters are float32


@dataclasses.dataclass(frozen=True)
class Mesh:
    """Number of devices along each axis of the mesh. One axis may be -1, which uses all remaining devices."""

    data: int = -1  # data parallelism: batches are split, parameters replicated
    fsdp: int = 1  # fully sharded data parallelism: batches and parameters are split
    tensor: int = 1  # tensor parallelism: heads and hidden units are split


@dataclasses.dataclass(frozen=True)
class SamplingMesh:
    """Devices that share one copy of a model in sampling and evaluation; all further devices hold further copies.

    With more devices than one host has, several hosts share a copy and generate together. If both are 0, the copies
    follow `mesh`: on one host they have its sizes, and of several hosts each holds a copy, split by `tensor` only.
    """

    fsdp: int = 0  # devices between which parameters are split, and gathered for every token; 0 is 1 if tensor is set
    tensor: int = 0  # devices between which heads and hidden units are split; 0 is 1 if fsdp is set

    def __post_init__(self):
        for name in ("fsdp", "tensor"):
            if getattr(self, name) < 0:
                raise FieldError("SamplingMesh", name, f"expected at least 0, found {getattr(self, name)}")


@dataclasses.dataclass(frozen=True)
class Profile:
    """Which steps to profile: updates of every student, and decoded batches of every model. Does not affect results.

    Profiles are written to students/NAME/profile, rationales/NAME/profile and evaluations/NAME/profile.
    """

    first: int = 0  # first profiled step, counted from 1; 0 is off
    last: int = 0  # last profiled step; 0 is the first

    def __post_init__(self):
        if self.first < 0 or (self.last and not 0 < self.first <= self.last):
            expected = f"expected 1 <= first <= last, found first {self.first} and last {self.last}"
            raise FieldError("Profile", "first", expected)


@dataclasses.dataclass(frozen=True)
class Plan:
    """Assumptions of the plan job. No other job reads them."""

    topology: str = ""  # "v5e-16", "v5p-128" (Google Cloud's names), "h200-8" (GPUs), or "cpu-8" to try the job
    questions: int = 10_000  # size of a question set whose files are missing
    prompt_tokens: int = 0  # maximum length of a teacher's prompt, in tokens; 0 is max_prompt_tokens of its corpora
    exemplar_tokens: int = 128  # length of one few-shot example, in tokens
    response_tokens: int = 0  # mean length of a response, in tokens; 0 is max_new_tokens
    efficiency: float = 0.4  # fraction of peak FLOP/s that is reached
    bandwidth: float = 0.7  # fraction of peak memory bandwidth that is reached
    # Programs of deeper models without a scan over layers (decoding, and training with scan_layers off) are compiled
    # with this many and with half as many layers, and extrapolated; 0 compiles all layers, which is slow.
    compile_layers: int = 4


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole run: what to sample, build, train, evaluate, export and report."""

    name: str = ""  # title of the report
    seed: int = 0  # base of all seeds
    tasks: dict[str, Task] = dataclasses.field(default_factory=dict)  # sources of questions by name
    rationales: dict[str, RationaleSource] = dataclasses.field(default_factory=dict)  # sets of responses by name
    recipes: dict[str, Recipe] = dataclasses.field(default_factory=dict)  # recipes in addition to the built-in ones
    corpora: dict[str, Corpus] = dataclasses.field(default_factory=dict)  # corpora by name
    students: dict[str, Student] = dataclasses.field(default_factory=dict)  # students by name
    evals: dict[str, EvalSpec] = dataclasses.field(default_factory=dict)  # additional evaluations by name
    evaluation: Evaluation = Evaluation()  # how students are evaluated
    mesh: Mesh = Mesh()  # how devices are used
    sampling_mesh: SamplingMesh = SamplingMesh()  # how sampling and evaluation use them, if not as `mesh`
    profile: Profile = Profile()  # which steps to profile
    plan: Plan = Plan()  # assumptions of the plan job
    # Finished steps to push to the Hugging Face Hub, "JOB NAME" to "OWNER/NAME": "export NAME" as a model, "build NAME"
    # and the release of "sample NAME" as data sets. New repositories are private.
    push_to_hub: dict[str, str] = dataclasses.field(default_factory=dict)
    # Evaluation -> values of further columns of report/results.csv, e.g. {"width": 64}; --sweep adds the swept keys.
    columns: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        for name, values in self.columns.items():
            for column in values:
                if column in RESULT_COLUMNS:
                    raise FieldError(
                        "Config", f"columns.{name}.{column}", "every results table has this column; rename it"
                    )
