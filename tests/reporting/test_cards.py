"""Model cards."""

import re

import pytest
import yaml

from scotd_jax.evaluation.intervals import Estimate
from scotd_jax.reporting import cards, tables
from tests.helpers.invented_report import invented


def front_matter(card: str) -> dict:
    _, matter, _ = card.split("---\n", 2)
    return yaml.safe_load(matter)


@pytest.mark.slow
def test_model_card_has_usage_results_and_training():
    results = invented().runs[4].results
    card = cards.model_card(
        "n30: \"best\" 'yet'",
        kind="opt",
        about="A student.",
        prompt='Q: "why"?\nA:',
        results=results,
        facts={"Steps": "1,500"},
        stops=["\n\n"],
        base_model="facebook/opt-125m",
    )
    front = front_matter(card)
    assert front["model-index"][0]["name"] == "n30: \"best\" 'yet'"
    assert front["base_model"] == "facebook/opt-125m"
    assert "license" not in front
    assert front["model-index"][0]["results"][0]["metrics"][0]["value"] == pytest.approx(
        results["world.test"]["accuracy"], abs=1e-6
    )
    assert "AutoModelForCausalLM" in card
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert code is not None
    compile(code[1], "card", "exec")
    score = results["world.test"]
    cell = f"{tables.percent(score['accuracy'])} ({tables.span(Estimate(score['accuracy'], *score['interval']))})"
    assert f"| world.test | {cell} | 50.0 |" in card
    assert "- Steps: 1,500" in card
    unevaluated = cards.model_card("x", kind="t5", about="", prompt="", results={}, facts={})
    assert "not evaluated" in unevaluated
    assert "AutoModelForSeq2SeqLM" in unevaluated
