"""Config schema of generation: models, sampling, and the five sources of rationales.

Each source of rationales is a dataclass with only the fields that apply to it. In a config, the key `source` selects
the class. Fields and comments follow the conventions of `schema`.
"""

import dataclasses
import re
from typing import Any, Literal
from urllib.parse import urlsplit

from scotd_jax.errors import FieldError

Names = tuple[str, ...]
Think = Literal["", "keep", "strip", "rationale"]
Release = Literal["", "jsonl", "parquet"]

RESERVED_REQUEST_FIELDS = ("model", "prompt", "messages", "n", "stream")  # set by the sample job; see Server.extra_body


@dataclasses.dataclass(frozen=True)
class Model:
    """Where a model comes from. Exactly one of `architecture`, `path` and `student` is set."""

    architecture: str = ""  # preset of models/registry.py with random weights: "opt-125m", "t5-small", "opt-tiny", ...
    overrides: dict[str, Any] = dataclasses.field(default_factory=dict)  # fields of the preset to replace
    # Hugging Face directory with weights (local or gs://), or the name of a model on the Hugging Face Hub, OWNER/NAME
    # or OWNER/NAME@REVISION. A local directory of the same name takes precedence.
    path: str = ""
    student: str = ""  # name of a student of this config; its best checkpoint is loaded
    # Path or Hub name of the tokenizer, as `path`, or one file; "task:NAME,NAME" trains a word-level one on the texts
    # of these tasks; "" is the model's own tokenizer.
    tokenizer: str = ""
    # Prompt with the tokenizer's chat template, with few-shot examples as earlier turns. Students that start from this
    # model inherit the setting.
    chat: bool = False


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How responses are sampled from a model."""

    n: int = 1  # responses per question
    temperature: float = 1.0  # 0 is greedy decoding
    top_k: int = 0  # sample from the k most likely tokens; 0 is all tokens
    top_p: float = 1.0  # sample from the smallest set of tokens with at least this total probability; 1 is all tokens
    max_new_tokens: int = 256  # maximum length of a response, in tokens
    # Questions that are decoded at once over all devices, each with n responses; 0 is as many as fit into 1 GiB per
    # device, 32 to 128 responses.
    batch_size: int = 0
    bucket: int = 32  # prompts are padded to a multiple of this many tokens; each multiple is compiled once
    chunk: int = 8  # decoded tokens between two refills of the slots of finished responses

    def __post_init__(self):
        if self.batch_size < 0:
            raise FieldError("Sampling", "batch_size", f"expected at least 0 (automatic), found {self.batch_size}")


@dataclasses.dataclass(frozen=True)
class Server:
    """A model behind an OpenAI-compatible interface (vLLM, SGLang, llama.cpp, a hosted API).

    Batch files use only `model`, `kind` and `extra_body`. The API key itself is never part of a config.
    """

    url: str = ""  # base URL with the version, "http://localhost:8000/v1"; batch files need none
    model: str = ""  # name of the model on the server
    kind: Literal["completions", "chat"] = "completions"  # endpoint; "chat" sends few-shot examples as turns
    n_per_request: int = 0  # responses per request; 0 is all responses of a question in one request
    concurrency: int = 8  # simultaneous requests of each process
    timeout: float = 600.0  # seconds without any received byte after which a request fails
    retries: int = 6  # repetitions of a failed request, with growing pauses
    key_env: str = ""  # NAME of the environment variable that holds the API key; "" sends no key
    extra_body: dict[str, Any] = dataclasses.field(default_factory=dict)  # request fields to add; None removes a field

    def __post_init__(self):
        # key_env is written to manifests, so it must not be the key itself. Messages repeat neither key_env nor url,
        # since they may contain credentials.
        if self.key_env and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", self.key_env):
            expected = "the NAME of an environment variable in capitals, such as OPENAI_API_KEY, not a key"
            raise FieldError("Server", "key_env", f"expected {expected}")
        if self.url:
            parts = urlsplit(self.url)
            if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or parts.query:
                expected = "http(s)://HOST[:PORT]/v1, without user, password and query; for a key see key_env"
                raise FieldError("Server", "url", f"expected {expected}")
        for name, least in (("concurrency", 1), ("retries", 0), ("n_per_request", 0)):
            if (value := getattr(self, name)) < least:
                raise FieldError("Server", name, f"expected at least {least}, found {value}")
        if not self.timeout > 0:
            raise FieldError("Server", "timeout", f"expected more than 0 seconds, found {self.timeout}")
        for name in RESERVED_REQUEST_FIELDS:
            if name in self.extra_body:
                raise FieldError("Server", f"extra_body.{name}", "is set by the sample job; remove it")


@dataclasses.dataclass(frozen=True)
class ModelSource:
    """Rationales sampled from a model on this machine's devices."""

    source: Literal["model"] = dataclasses.field(default="model", init=False)  # selects this class
    questions: Names = ()  # question sets to answer, "TASK.SPLIT"
    model: Model = Model()  # model to sample from
    sampling: Sampling = Sampling()  # how responses are sampled
    recipe: str = ""  # prompt and parsing of responses; "" is the recipe of the student, or "scotd" for other models
    few_shot: int = 0  # few-shot examples before every question; 0 is the number with which the student was trained
    system: str = ""  # system turn of a chat; "" is none, unless the chat template adds one
    # Line after every question: a template of tasks/instructions.py. "auto" instructs chat models without few-shot
    # examples to end with the answer sentence of the prompt format, and adds no line otherwise; "" adds none.
    instruction: str = "auto"
    # Regular expression with one group: its last match is the answer, the text before it the rationale. "" parses by
    # recipe and prompt format.
    answer_pattern: str = ""
    # Treatment of <think> blocks: "keep" leaves them in the text, "strip" removes them, "rationale" removes them and
    # stores their contents as the rationale; "" refuses them.
    think: Think = ""
    release: Release = ""  # also write the responses as a dataset with a card, in this format; "" writes none
    seed: int = 0  # added to the seed of the config
    # Set of responses, for example a student's: answer only the questions without a correct response in it; "" is all.
    failed_in: str = ""

    def __post_init__(self):
        _check_answer_pattern(self)


@dataclasses.dataclass(frozen=True)
class ServerSource:
    """Rationales requested from a server over the network."""

    source: Literal["server"] = dataclasses.field(default="server", init=False)  # selects this class
    questions: Names = ()  # question sets to answer, "TASK.SPLIT"
    server: Server = Server()  # server and model
    sampling: Sampling = Sampling()  # sampling by the server; batch_size, bucket and chunk have no effect
    recipe: str = "scotd"  # prompt and parsing of responses
    few_shot: int = 0  # few-shot examples before every question
    system: str = ""  # system turn of a chat, see ModelSource
    instruction: str = "auto"  # line after every question, see ModelSource
    answer_pattern: str = ""  # regular expression of the answer, see ModelSource
    think: Think = ""  # what to do with <think> blocks, see ModelSource
    release: Release = ""  # also write the responses as a dataset with a card, in this format; "" writes none
    seed: int = 0  # added to the seed of the config
    failed_in: str = ""  # set of responses: answer only the questions that it fails on, see ModelSource

    def __post_init__(self):
        _check_answer_pattern(self)


@dataclasses.dataclass(frozen=True)
class BatchSource:
    """Rationales from a batch interface: writes request files, and reads result files when they are available."""

    source: Literal["batch"] = dataclasses.field(default="batch", init=False)  # selects this class
    questions: Names = ()  # question sets to answer, "TASK.SPLIT"
    server: Server = Server()  # only model, kind and extra_body have an effect
    path: str = ""  # result files, may contain *; "" is rationales/NAME/batch/results*.jsonl in the work directory
    sampling: Sampling = Sampling()  # sampling by the server; batch_size, bucket and chunk have no effect
    recipe: str = "scotd"  # prompt and parsing of responses
    few_shot: int = 0  # few-shot examples before every question
    system: str = ""  # system turn of a chat, see ModelSource
    instruction: str = "auto"  # line after every question, see ModelSource
    answer_pattern: str = ""  # regular expression of the answer, see ModelSource
    think: Think = ""  # what to do with <think> blocks, see ModelSource
    release: Release = ""  # also write the responses as a dataset with a card, in this format; "" writes none
    seed: int = 0  # added to the seed of the config
    failed_in: str = ""  # set of responses: answer only the questions that it fails on, see ModelSource

    def __post_init__(self):
        _check_answer_pattern(self)


@dataclasses.dataclass(frozen=True)
class FileSource:
    """Rationales imported from files."""

    source: Literal["file"] = dataclasses.field(default="file", init=False)  # selects this class
    questions: Names = ()  # question sets of the rows, "TASK.SPLIT"
    path: str = ""  # files, may contain *; read in the order of the numbers in their names
    importer: str = (
        "responses"  # format of the files: a name of rationales/importers/registry.py, or path of a Python file
    )
    options: dict[str, Any] = dataclasses.field(default_factory=dict)  # options of the importer
    answer_pattern: str = ""  # see ModelSource; not for importers with an answer rule of their own
    release: Release = ""  # also write the responses as a dataset with a card, in this format; "" writes none

    def __post_init__(self):
        _check_answer_pattern(self)


@dataclasses.dataclass(frozen=True)
class TaskSource:
    """Gold rationales of the task."""

    source: Literal["task"] = dataclasses.field(default="task", init=False)  # selects this class
    questions: Names = ()  # question sets with gold rationales, "TASK.SPLIT"
    release: Release = ""  # also write the responses as a dataset with a card, in this format; "" writes none


RemoteSource = ServerSource | BatchSource
GeneratedSource = ModelSource | ServerSource | BatchSource
RationaleSource = ModelSource | ServerSource | BatchSource | FileSource | TaskSource


def _check_answer_pattern(source: GeneratedSource | FileSource) -> None:
    """Raises FieldError unless the answer pattern is a regular expression with one group."""
    if not source.answer_pattern:
        return
    try:
        pattern = re.compile(source.answer_pattern)
    except re.error as error:
        problem = f"not a regular expression ({error}): {source.answer_pattern!r}"
        raise FieldError(type(source).__name__, "answer_pattern", problem) from None
    if pattern.groups != 1:
        problem = f"expected one group, the answer, found {pattern.groups}: {source.answer_pattern!r}"
        raise FieldError(type(source).__name__, "answer_pattern", problem)
