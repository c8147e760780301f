"""The export job: a student as a Hugging Face directory, compared with PyTorch where that is installed."""

import importlib.util

from scotd_jax.config import Model
from scotd_jax.jobs.run import Run
from scotd_jax.models.hf_export import export_pretrained, verify_export
from scotd_jax.reporting.cards import model_card


def export(run: Run, name: str) -> None:
    """exports/NAME: config, generation_config, safetensors, tokenizer, card, manifest.

    Where torch is installed the directory is loaded with transformers and its float32 logits and greedy text are
    compared with ours; the artefact is not completed if they differ.
    """
    spec = run.config.students[name]
    artefact = run.artefact("export", name)
    if not artefact.begin({"student": run.artefact("train", name).digest}):
        run.log("  already complete")
        return
    model = run.model(Model(student=name), "float32")
    params = run.params(Model(student=name), model, 0)
    tokenizer = run.tokenizer(spec.model)
    folder = artefact.path
    card = model_card(name, plain_student(run, name))
    export_pretrained(folder, model.config, params, tokenizer, card)
    counts = {"checked_against_torch": False}
    if importlib.util.find_spec("torch"):
        sets = spec.dev or spec.sets
        asked = run.ask(sets[:1]) if sets else {}
        prompts = [task.format.prompt(q) for q, task in list(asked.values())[:4]] or ["Q: hello A:"]
        counts = {"checked_against_torch": True} | verify_export(folder, model, params, tokenizer, prompts)
        run.log("  " + ", ".join(f"{key} {value}" for key, value in counts.items()))
    else:
        run.log("  torch is not installed: the export was not compared with PyTorch")
    artefact.finish(counts)
