"""Programs compiled for absent accelerators need no more memory than before (`make test-compile`)."""

import json

import pytest

from benchmarks import compiled
from benchmarks.compiled import RESULTS, TOPOLOGIES, architectures, growth, measure, record
from scotd_jax.distributed import topologies

GIB = 2**30
ROW = {
    "update": {"arguments": GIB, "temporaries": GIB, "estimated": 2 * GIB},
    "decode": {"arguments": GIB, "temporaries": 0, "estimated": GIB},
}


@pytest.mark.compile
@pytest.mark.parametrize("name", TOPOLOGIES)
@pytest.mark.parametrize("model", architectures())
def test_memory_of_a_preset_has_not_grown(model, name):
    topologies.use_cpu_only(1)
    topology = topologies.parse_topology(name)
    if obstacle := topologies.compile_obstacle(topology):
        pytest.skip(obstacle)
    grown = record(RESULTS, model, name, measure(model, topology))
    assert not grown, f"{grown}; to accept it, delete the row of {model} on {name} from {RESULTS}"


def test_growth_of_more_than_five_percent_is_reported():
    def with_update(temporaries):
        return ROW | {"update": {"arguments": GIB, "temporaries": temporaries, "estimated": 0}}

    assert growth(ROW, ROW) == growth(ROW, with_update(0)) == growth(ROW, with_update(round(1.1 * GIB))) == []
    (message,) = growth(ROW, with_update(round(1.2 * GIB)))
    assert message == "update needs 2.20 GiB per chip, 10% more than before"
    assert growth({}, ROW) == [], "a new row has nothing to compare with"


def test_table_retains_the_row_that_a_grown_one_fails_against(tmp_path, monkeypatch):
    monkeypatch.setattr(compiled, "versions", lambda libraries: dict.fromkeys(libraries, "1"))
    path = tmp_path / "compiled.json"
    assert record(path, "opt-125m", "h200-8", ROW) == []
    larger = {"update": {"arguments": 2 * GIB, "temporaries": GIB}}
    assert len(record(path, "opt-125m", "h200-8", larger)) == 1
    assert record(path, "opt-125m", "v5e-8", larger) == []
    table = json.loads(path.read_text())
    assert table["bytes_per_chip"] == {"opt-125m": {"h200-8": ROW, "v5e-8": larger}}
    assert table["versions"] == {"jax": "1", "jax-cuda13-pjrt": "1", "libtpu": "1"}
    assert [file.name for file in tmp_path.iterdir()] == ["compiled.json"]


def test_presets_of_one_architecture_are_compiled_once():
    names = architectures()
    assert "opt-1.3b" in names
    assert ("flan-t5-small" in names) + ("t5-v1.1-small" in names) == 1
