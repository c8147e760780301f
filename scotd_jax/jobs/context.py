"""What the jobs of one run share: the config, the work directory, and whatever is worth loading only once."""

import functools
from collections.abc import Callable
from typing import Any

import jax

from scotd_jax import config as c
from scotd_jax.distributed.hosts import gather_to_local_devices
from scotd_jax.distributed.mesh import local_mesh_sizes, make_mesh
from scotd_jax.distributed.sharding import param_shardings
from scotd_jax.errors import InputError
from scotd_jax.layout import round_up
from scotd_jax.models import api, registry
from scotd_jax.progress import Progress, log
from scotd_jax.records import Prompt, Question, Turn, to_json
from scotd_jax.tasks import recipes
from scotd_jax.tasks.base import LoadedTask
from scotd_jax.tasks.exemplars import Exemplar, few_shot_prefix, few_shot_turns, load_exemplars
from scotd_jax.tasks.prompt_formats import PromptFormat, get_prompt_format
from scotd_jax.tasks.question_sets import QuestionSet
from scotd_jax.tasks.registry import load_task
from scotd_jax.tokenization import Tokenizer
from scotd_jax.workdir import Artefact, Workdir, digest


class Run:
    """The caches hold for the process; artefacts hold for good."""

    def __init__(self, config: c.Config, workdir: Workdir, skip_bad: bool = False):
        self.config = config
        self.skip_bad = skip_bad  # of imported files: leave out rows that are broken, and say so in the ledger
        self.workdir = workdir
        self.mesh = make_mesh(config.mesh)  # of training: the devices of all processes
        several = jax.process_count() > 1
        # Of speaking: the devices of this process, over which its questions are spread.
        own = jax.local_devices()
        self.own_mesh = (
            make_mesh(local_mesh_sizes(config.mesh, jax.device_count(), len(own)), own) if several else self.mesh
        )
        self.task = functools.cache(self._task)
        self.questions = functools.cache(self._questions)
        self.prefix = functools.cache(self._prefix)
        self.turns = functools.cache(self._turns)
        self._tokenizers: dict[str, Tokenizer] = {}

    def log(self, message: str) -> None:
        log(message, process_index=jax.process_index())

    def progress(self, total: int, label: str, unit: str, done: int = 0) -> Progress:
        return Progress(total, label, unit, done=done, process_index=jax.process_index())

    def artefact(self, job: str, name: str) -> Artefact:
        return self.workdir.artefact(job, name)

    # Questions

    def _task(self, name: str) -> LoadedTask:
        return load_task(name, spec := self.config.tasks[name], self.config.seed + spec.seed)

    def _questions(self, set_name: str) -> tuple[Question, ...]:
        """The questions of a set. Raises InputError if the task has no such split."""
        where = QuestionSet.parse(set_name)
        return tuple(q for q in self.task(where.task).questions(where.split) if where.holds(q.text))

    def ask(self, sets: tuple[str, ...]) -> dict[str, tuple[Question, LoadedTask]]:
        """The questions of several sets by id, each with its task. Raises InputError on an id that comes twice."""
        asked: dict[str, tuple[Question, LoadedTask]] = {}
        for set_name in sets:
            task = self.task(QuestionSet.parse(set_name).task)
            for question in self.questions(set_name):
                if question.id in asked:
                    raise InputError(f"{set_name}: question {question.id!r} comes twice; ids must be unique in a run")
                asked[question.id] = question, task
        return asked

    def reported(self, set_name: str) -> dict[str, tuple[Question, LoadedTask]]:
        """The questions of a set on which students are evaluated."""
        asked = self.ask((set_name,))
        return dict(list(asked.items())[: self.config.evaluation.limit or None])

    def corpus_sets(self, name: str) -> tuple[str, ...]:
        """The question sets of a corpus."""
        corpus = self.config.corpora[name]
        sources = (self.config.rationales[each].questions for each in corpus.rationales)
        return corpus.questions or tuple(dict.fromkeys(name for sets in sources for name in sets))

    def recipe(self, corpus: str) -> c.Recipe:
        """The recipe of a corpus."""
        return self.recipe_named(self.config.corpora[corpus].recipe, f"config.corpora.{corpus}.recipe")

    def recipe_named(self, name: str, where: str) -> c.Recipe:
        return recipes.find(name, self.config.recipes, where)

    def style(self, corpus: str) -> PromptFormat | None:
        """The format in which the students of a corpus meet every task; None: each task's own."""
        name = self.config.corpora[corpus].format
        return get_prompt_format(name, f"config.corpora.{corpus}.format") if name else None

    def manner(self, model: c.Model) -> tuple[c.Recipe, PromptFormat | None, int]:
        """Recipe, format and number of exemplars with which a model is asked: a student as it was taught, any other
        one as SCoTD asks its teacher."""
        if not model.student:
            return recipes.RECIPES["scotd"], None, 0
        corpus = self.config.students[model.student].corpus
        return self.recipe(corpus), self.style(corpus), self.config.corpora[corpus].few_shot

    def opening(self, model: c.Model) -> Callable[[LoadedTask, PromptFormat, int], Prompt]:
        """f(task, format, count): what comes before every prompt to a model: `prefix`, or `turns` of a chat."""
        return self.turns if self.chats(model) else self.prefix

    def chats(self, model: c.Model) -> bool:
        """Whether a model is asked by its chat template: a student, and who starts from one, as that was taught."""
        return model.chat or bool(model.student and self.chats(self.config.students[model.student].model))

    def _prefix(self, task: LoadedTask, style: PromptFormat, count: int) -> str:
        return few_shot_prefix(style, self._exemplars(task, count))

    def _turns(self, task: LoadedTask, style: PromptFormat, count: int) -> tuple[Turn, ...]:
        return few_shot_turns(style, self._exemplars(task, count))

    def _exemplars(self, task: LoadedTask, count: int) -> list[Exemplar]:
        """The first exemplars of a task. Raises InputError if it has fewer."""
        found = load_exemplars(self.config.tasks[task.name].exemplars, task) if count else []
        if len(found) < count:
            raise InputError(f"config.tasks.{task.name}.exemplars: there are {len(found)}, {count} are asked for")
        return found[:count]

    # Models

    def tokenizer(self, model: c.Model) -> Tokenizer:
        key = digest(c.plain(model))
        if key not in self._tokenizers:
            self._tokenizers[key] = self._load_tokenizer(model)
        return self._tokenizers[key]

    def _load_tokenizer(self, model: c.Model) -> Tokenizer:
        if model.tokenizer.startswith("task:"):
            tasks = [self.task(name) for name in model.tokenizer.removeprefix("task:").split(",")]
            own = [recipes.literal_text(self.recipe(n), self.style(n) or tasks[0].format) for n in self.config.corpora]
            return Tokenizer.train_word_level([*own, *(text for task in tasks for text in task.texts())])
        if model.tokenizer or model.path:
            return Tokenizer.load(model.tokenizer or model.path, model.path or None)
        return self.tokenizer(self.config.students[model.student].model)

    def model(self, model: c.Model, precision: str) -> api.Model:
        """The functions of a model, without its parameters."""
        return registry.build(self.model_config(model), api.Precision(precision))

    def model_config(self, model: c.Model) -> Any:
        if model.student:
            return self.model_config(self.config.students[model.student].model)
        if model.path:
            from scotd_jax.models.hf.loading import load_config

            return load_config(model.path)
        shape = dict(model.overrides)
        if model.tokenizer.startswith("task:"):
            # A vocabulary made on the spot has no size of its own to respect; multiples of 8 shard.
            shape.setdefault("vocab_size", round_up(self.tokenizer(model).size, 8))
        return registry.config_for(model.architecture, shape)

    def speaking_params(self, model: c.Model, functions: api.Model, seed: int) -> api.Params:
        """The parameters on this process' devices."""
        return self.on_own_devices(self.params(model, functions, seed, functions.precision.compute), functions)

    def on_own_devices(self, params: api.Params, functions: api.Model) -> api.Params:
        return gather_to_local_devices(params, param_shardings(self.own_mesh, functions.axes(), functions.abstract()))

    def params(self, model: c.Model, functions: api.Model, seed: int, kernels: str = "float32") -> api.Params:
        """The parameters a student starts from, placed on the mesh of all processes. `kernels` as in hf_import."""
        shardings = param_shardings(self.mesh, functions.axes(), functions.abstract())
        if model.student:
            from scotd_jax.training.checkpoints import load_params

            folder = self.artefact("train", model.student).path / "checkpoints"
            abstract = jax.tree.map(
                lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
                functions.abstract(),
                shardings,
            )
            return load_params(folder, abstract, "best")[0]
        if model.path:
            from scotd_jax.models.hf.loading import load_pretrained

            return load_pretrained(model.path, shardings, kernels)[1]
        return jax.jit(functions.init, out_shardings=shardings)(jax.random.key(seed))

    def model_identity(self, model: c.Model) -> dict[str, Any]:
        """What a manifest records of where a model came from."""
        tokenizer = self.tokenizer(model)
        identity: dict[str, Any] = {"config": c.plain(model), "tokenizer": tokenizer.fingerprint()}
        identity["ends"] = list(tokenizer.eos_ids)
        if self.chats(model):
            identity["chat"] = digest(tokenizer.chat_template)
        if model.student:
            identity["student"] = self.artefact("train", model.student).digest
        return identity

    def exemplars_identity(self, sets: tuple[str, ...], few_shot: int) -> dict[str, str]:
        tasks = {QuestionSet.parse(name).task for name in sets} if few_shot else ()
        return {name: digest(self.prefix(task := self.task(name), task.format, few_shot)) for name in sorted(tasks)}

    def questions_identity(self, sets: tuple[str, ...]) -> dict[str, Any]:
        return {name: digest([to_json(q) for q in self.questions(name)]) for name in sets}
