"""Loading of the models that a config names: architectures, tokenizers, and parameters on the devices."""

from collections.abc import Callable

import jax
from jax.sharding import Mesh

from scotd_jax import config as c
from scotd_jax.config.references import TASK_TOKENIZER_PREFIX
from scotd_jax.digests import digest
from scotd_jax.distributed.data_group import DataGroup
from scotd_jax.distributed.mesh import most_sharded
from scotd_jax.distributed.sharding import param_shardings
from scotd_jax.jobs.generation.prompting import corpus_format, corpus_recipe, uses_chat_template
from scotd_jax.layout import round_up
from scotd_jax.models import api, registry
from scotd_jax.progress import log
from scotd_jax.sampling.decode_loop import cast_for_inference
from scotd_jax.tasks import recipes
from scotd_jax.tasks.question_loader import QuestionLoader
from scotd_jax.tokenization import Tokenizer
from scotd_jax.workdir import Workdir


def base_model(config: c.Config, model: c.Model) -> c.Model:
    """Returns the model itself, or for a student the model at the start of its chain of trainings."""
    return base_model(config, config.students[model.student].model) if model.student else model


def tokenizer_model(config: c.Config, model: c.Model) -> c.Model:
    """Returns the model whose tokenizer a model uses. A student without its own uses that of its initial model."""
    if model.student and not model.tokenizer:
        return tokenizer_model(config, config.students[model.student].model)
    return model


def tokenizer_path(model: c.Model) -> str:
    """Returns the path of a model's own tokenizer; "" if that is trained on tasks."""
    return "" if model.tokenizer.startswith(TASK_TOKENIZER_PREFIX) else model.tokenizer or model.path


def model_config(
    config: c.Config, model: c.Model, word_count: Callable[[c.Model], int] | None = None
) -> registry.ModelConfig:
    """Returns the architecture of a model.

    Args:
      config: the whole config.
      model: one of its models.
      word_count: returns the size of a tokenizer that is trained on tasks. The vocabulary of a random model is this
        size rounded up. None keeps the preset's vocabulary.

    Raises:
      InputError: on an unknown preset or field, and if the model's folder has no readable config.json.
    """
    model = base_model(config, model)
    if model.path:
        from scotd_jax.models.hf.loading import load_config

        return load_config(model.path)
    overrides = dict(model.overrides)
    if word_count is not None and model.tokenizer.startswith(TASK_TOKENIZER_PREFIX):
        # Such a vocabulary has no fixed size; a multiple of 8 can be sharded.
        overrides.setdefault("vocab_size", round_up(word_count(model), 8))
    return registry.config_for(model.architecture, overrides)


class ModelLoader:
    """Loads models of a config. Caches tokenizers, but not parameters, so that their memory is freed after use."""

    def __init__(
        self, config: c.Config, workdir: Workdir, questions: QuestionLoader, mesh: Mesh, data_group: DataGroup
    ):
        """`mesh` is that of training."""
        self._config, self._workdir, self._questions = config, workdir, questions
        self._mesh, self._data_group = mesh, data_group
        self._tokenizers: dict[str, Tokenizer] = {}

    def tokenizer(self, model: c.Model) -> Tokenizer:
        """Returns the tokenizer of a model. A student uses the tokenizer of its initial model."""
        chat = uses_chat_template(self._config, model)
        model = tokenizer_model(self._config, model)
        key = digest([c.plain(model), chat])
        if key not in self._tokenizers:
            if model.tokenizer.startswith(TASK_TOKENIZER_PREFIX):
                names = model.tokenizer.removeprefix(TASK_TOKENIZER_PREFIX).split(",")
                self._tokenizers[key] = self._train_tokenizer(names, chat)
            else:
                self._tokenizers[key] = Tokenizer.load(tokenizer_path(model), model.path or None, chat)
        return self._tokenizers[key]

    def architecture(self, model: c.Model) -> registry.ModelConfig:
        """Returns the architecture of a model, with the vocabulary of its tokenizer."""
        return model_config(self._config, model, lambda base: self.tokenizer(base).size)

    def functions(self, model: c.Model, precision: str) -> api.LanguageModel:
        """Returns the functions of a model, without its parameters."""
        return registry.build(self.architecture(model), api.Precision(precision))

    def params(
        self,
        model: c.Model,
        functions: api.LanguageModel,
        seed: int,
        kernels: str = "float32",
        mesh: Mesh | None = None,
    ) -> api.Params:
        """Returns the parameters of a model, sharded over the devices of all processes.

        Args:
          model: the model: a student's best checkpoint, a folder's weights, or random weights.
          functions: its functions.
          seed: seed of random weights.
          kernels: dtype to which kernels are converted as they are read from a folder.
          mesh: a mesh of these devices; None for that of training.
        """
        shardings = param_shardings(mesh or self._mesh, functions.axes(), functions.abstract())
        if model.student:
            from scotd_jax.training.checkpoints import load_params

            artefact = self._workdir.checked("train", model.student)
            abstract = jax.tree.map(
                lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
                functions.abstract(),
                shardings,
            )
            # The step that the training recorded, whichever rule chose it.
            return load_params(artefact.path / "checkpoints", abstract, artefact.manifest()["counts"]["step"])[0]
        if model.path:
            from scotd_jax.models.hf.loading import load_pretrained

            return load_pretrained(model.path, shardings, kernels, _log)[1]
        return jax.jit(functions.init, out_shardings=shardings)(jax.random.key(seed))

    def inference_params(self, model: c.Model, functions: api.LanguageModel, seed: int) -> api.Params:
        """Returns the parameters of a model, cast for inference, on the devices of the data group.

        Every process reads only slices that its own devices hold.
        """
        mesh = most_sharded(self._data_group.run_mesh, self._mesh)
        params = self.params(model, functions, seed, functions.precision.compute, mesh)
        # Cast before the transfer, so that only the half-size copy reaches the devices.
        return self.to_sampling_devices(cast_for_inference(functions, params), functions)

    def to_sampling_devices(self, params: api.Params, functions: api.LanguageModel) -> api.Params:
        """Moves parameters from the devices of all processes to those of the data group."""
        run_mesh = self._data_group.run_mesh
        if run_mesh != self._mesh:
            params = jax.device_put(params, param_shardings(run_mesh, functions.axes(), functions.abstract()))
        return self._data_group.own_copy(params)

    def _train_tokenizer(self, task_names: list[str], chat: bool) -> Tokenizer:
        """A word tokenizer trained on the texts of some tasks and the fixed words of all recipes."""
        tasks = [self._questions.task(name) for name in task_names]
        own_words = []
        for corpus in self._config.corpora:
            form = corpus_format(self._config, corpus) or tasks[0].format
            own_words.append(recipes.literal_text(corpus_recipe(self._config, corpus), form))
        return Tokenizer.train_word_level([*own_words, *(text for task in tasks for text in task.texts())], chat)


def _log(message: str) -> None:
    log(f"  {message}", process_index=jax.process_index())
