"""The export job: a student as a Hugging Face directory, compared with PyTorch where that is installed."""

import importlib.util
from typing import Any

from scotd_jax.config import Model
from scotd_jax.distributed import hosts
from scotd_jax.jobs.context import Run
from scotd_jax.models.hf.export import export_pretrained
from scotd_jax.models.hf.verification import verify_export
from scotd_jax.records import Prompt
from scotd_jax.reporting.cards import model_card
from scotd_jax.tasks import recipes
from scotd_jax.tasks.exemplars import join_prompt
from scotd_jax.training.trainable import describe_trainable
from scotd_jax.workdir import read_json

PROMPTS = 4  # that are compared


def export(run: Run, name: str) -> None:
    """exports/NAME: config, generation_config, safetensors, tokenizer, card, manifest.

    Where torch is installed the directory is loaded with transformers and its float32 logits and greedy text are
    compared with ours; the artefact is not completed if they differ (ExportMismatch).
    """
    spec = run.config.students[name]
    artefact = run.artefact("export", name)
    inputs = {"student": run.artefact("train", name).digest}
    if spec.eval_sets:
        inputs["evaluation"] = run.artefact("evaluate", name).digest
    if not artefact.begin(inputs):
        run.log("  already complete")
        return
    model = run.model(spec.model, "float32")
    params = run.speaking_params(Model(student=name), model, seed=0)
    if not hosts.is_primary():
        return
    tokenizer = run.tokenizer(spec.model)
    length = run.config.evaluation.sampling.max_new_tokens
    sets = spec.eval_sets or spec.dev_sets or run.corpus_sets(spec.corpus)
    asked = list(run.ask(sets[:1]).values())[:PROMPTS]
    as_taught = Model(student=name)
    recipe, own_style, few_shot = run.manner(as_taught)
    prompts = []
    for question, task in asked:
        style = own_style or task.format
        prompt = recipes.build_prompt(recipe, style, question, question.answer)
        prompts.append(join_prompt(run.opening(as_taught)(task, style, few_shot), prompt))
    learned = describe_trainable(model.abstract(), spec.training.freeze, spec.training.lora)
    card = _card(run, name, prompts[0], style.stops, length, learned)
    export_pretrained(artefact.path, model.config, params, tokenizer, card, max_new_tokens=length)
    if importlib.util.find_spec("torch"):
        checked = verify_export(artefact.path, model, params, tokenizer, prompts)
        run.log(
            f"  PyTorch agrees on {checked['prompts']} prompts: {checked['tokens']} greedy tokens equal, "
            f"logits within {checked['logit_error']:.1e} of the largest"
        )
    else:
        checked = {}
        run.log("  torch is not installed, so the export was not compared with PyTorch")
    artefact.finish({"compared_with_torch": bool(checked), **checked})


def _card(run: Run, name: str, prompt: Prompt, stops: tuple[str, ...], length: int, learned: str) -> str:
    spec = run.config.students[name]
    results: dict[str, Any] = {}
    if spec.eval_sets:
        results = read_json(run.artefact("evaluate", name).path / "results.json")["sets"]
    corpus = run.artefact("build", spec.corpus)
    facts = {
        "corpus": f"{spec.corpus} ({corpus.digest})",
        "updates": str(spec.training.steps),
        "questions per update": str(spec.training.batch_size),
        "responses per question and update": str(spec.training.group_size),
        "optimizer": f"{spec.training.optimizer.name}, peak rate {spec.training.optimizer.learning_rate:g}",
        "started from": spec.model.student or spec.model.path or f"random weights ({spec.model.architecture})",
    }
    if learned:
        facts["trainable parameters"] = learned
    return model_card(
        name,
        kind=run.model_config(spec.model).kind,
        about=f"A small language model that was taught to reason by {spec.arm or name!r}.",
        prompt=prompt,
        results=results,
        facts=facts,
        stops=stops,
        max_new_tokens=length,
    )
