"""The export job: writes a student as a Hugging Face directory and compares it with PyTorch, if it is installed."""

import importlib.util
from typing import Any

from scotd_jax.artefact import Artefact
from scotd_jax.config import Model
from scotd_jax.distributed.primary_reads import readable_on_primary
from scotd_jax.hub.hub_files import parse_hub_path
from scotd_jax.jobs.context import RunContext
from scotd_jax.jobs.generation.prompting import prompt_settings
from scotd_jax.jobs.model_loading import base_model
from scotd_jax.jobs.preparation import manifests
from scotd_jax.models.api import LanguageModel
from scotd_jax.models.hf.export import export_pretrained
from scotd_jax.models.hf.verification import verify_export
from scotd_jax.records import Prompt
from scotd_jax.reporting.cards import model_card
from scotd_jax.strict_json import read_json
from scotd_jax.tasks.question_sets import QuestionSet
from scotd_jax.training.trainable import describe_trainable

COMPARED_PROMPTS = 4
_HUB_DATA = "datasets:"  # before the paths of tasks that are read from the Hub


def export(context: RunContext, name: str) -> None:
    """Writes exports/NAME: config, generation_config, safetensors, tokenizer, model card, manifest.

    If torch is installed, transformers loads the directory, and its float32 logits and greedy tokens must match those
    of this package.

    Raises:
      ExportMismatch: if they do not match; the artefact then stays incomplete.
    """
    spec = context.config.students[name]
    artefact = context.artefact("export", name)
    # The card reports the evaluation, whose sets may change without a new training.
    if not artefact.begin(manifests.export_identity(context, name), remade_for=("evaluation",)):
        context.log("  already complete")
        return
    model = context.models.functions(spec.model, "float32")
    params = context.models.params(Model(student=name), model, seed=0)
    with readable_on_primary(params) as readable:
        if readable is not None:
            _export_params(context, name, artefact, model, readable)


def _export_params(context: RunContext, name: str, artefact: Artefact, model: LanguageModel, params: Any) -> None:
    """Writes the export of these parameters, verifies it and finishes the artefact."""
    spec = context.config.students[name]
    tokenizer = context.models.tokenizer(spec.model)
    max_new_tokens = context.config.evaluation.sampling.max_new_tokens
    prompts, stops = _example_prompts(context, name)
    trainable = describe_trainable(model.abstract(), spec.training.freeze, spec.training.lora)
    card = model_card(
        name,
        kind=model.config.kind,
        about=f"A small language model that was trained to reason by {spec.arm or name!r}.",
        prompt=prompts[0],
        results=_results(context, name),
        facts=_training_facts(context, name, trainable),
        stops=stops,
        max_new_tokens=max_new_tokens,
        path=context.config.push_to_hub.get(f"export {name}", ""),
        base_model=_base_model(context, name),
        datasets=_datasets(context, name),
    )
    export_pretrained(artefact.path, model.config, params, tokenizer, card, max_new_tokens=max_new_tokens)
    compared = {}
    if importlib.util.find_spec("torch"):
        compared = verify_export(artefact.path, model, params, tokenizer, prompts)
        context.log(
            f"  PyTorch agrees on {compared['prompts']} prompts: {compared['tokens']} greedy tokens equal, "
            f"logits within {compared['logit_error']:.1e} of the largest"
        )
    else:
        context.log("  torch is not installed, so the export was not compared with PyTorch")
    artefact.finish({"compared_with_torch": bool(compared), **compared})


def _example_prompts(context: RunContext, name: str) -> tuple[list[Prompt], tuple[str, ...]]:
    """Prompts for the first questions of the student, and the strings that end its responses."""
    spec = context.config.students[name]
    prompts = context.prompt_builder(prompt_settings(context.config, Model(student=name)))
    sets = spec.eval_sets or spec.dev_sets or context.question_sets[spec.corpus]
    examples = list(context.questions.by_id(sets[:1]).values())[:COMPARED_PROMPTS]
    stops = prompts.format_for(examples[-1][1]).stops
    # For recipes with rationales in prompts, the gold answer is used as the rationale.
    return [prompts.prompt(question, task, question.answer) for question, task in examples], stops


def _base_model(context: RunContext, name: str) -> str:
    """The repository of the pretrained model, or "" for other models."""
    repository = parse_hub_path(base_model(context.config, Model(student=name)).path)
    return "" if repository is None else repository.repo


def _datasets(context: RunContext, name: str) -> list[str]:
    """The data sets on the Hub whose questions the student was trained on."""
    tasks = [
        QuestionSet.parse(set_name).task for set_name in context.question_sets[context.config.students[name].corpus]
    ]
    paths = dict.fromkeys(context.config.tasks[task].path for task in tasks)
    names = ("/".join(path.removeprefix(_HUB_DATA).split("/")[:2]) for path in paths if path.startswith(_HUB_DATA))
    return [name for name in names if parse_hub_path(name) is not None]  # not a local folder


def _results(context: RunContext, name: str) -> dict[str, Any]:
    """The scores by question set, of answers read from the text if there are any, else by the choices."""
    if not context.config.students[name].eval_sets:
        return {}
    results = read_json(context.checked("evaluate", name).path / "results.json")
    return (results if "sets" in results else results["choices"])["sets"]


def _training_facts(context: RunContext, name: str, trainable: str) -> dict[str, str]:
    """How the student was trained, for its card. `trainable` describes its trainable parameters; "" for all."""
    spec = context.config.students[name]
    optimizer = spec.training.optimizer
    facts = {
        "corpus": f"{spec.corpus} ({context.artefact('build', spec.corpus).digest})",
        "updates": str(spec.training.steps),
        "questions per update": str(spec.training.batch_size),
        "responses per question and update": str(spec.training.group_size),
        "optimizer": f"{optimizer.name}, peak learning rate {optimizer.learning_rate:g}",
        "started from": spec.model.student or spec.model.path or f"random weights ({spec.model.architecture})",
    }
    if trainable:
        facts["trainable parameters"] = trainable
    return facts
