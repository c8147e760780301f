"""No altered bit of a checkpoint reaches a model: a damaged one is refused, or the one before it is used."""

import gc
import json
import random
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from scotd_jax import config
from scotd_jax.artefact import Artefact
from scotd_jax.errors import InputError
from scotd_jax.jobs.inspection.integrity import verify
from scotd_jax.training.array_digests import _digest, describe_arrays, digest_on_host
from scotd_jax.training.checkpoints import Checkpoints, load_params
from scotd_jax.training.loop import train
from scotd_jax.training.metrics import read_metrics
from tests.helpers.training_fixtures import bag_model, batches

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("calls_are_not_retraced", "garbage_is_collected", "fast_compilation"),
    # Orbax abandons its other reads when one fails; Python reports them when they are collected.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

MODEL = bag_model()
TRAINING = config.Training(
    steps=4, batch_size=4, save_every=2, log_every=1, startup_check=False, optimizer=config.Optimizer(warmup_steps=1)
)


@pytest.fixture
def garbage_is_collected():
    """Keeps what Orbax abandons from being reported in a later test."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def trained(tmp_path_factory, one_device) -> Path:
    """A finished training with the checkpoints 2 and 4."""
    folder = tmp_path_factory.mktemp("trained")
    train(MODEL, None, batches(4), TRAINING, folder, one_device)
    return folder


def copied(trained: Path, folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(trained, folder)
    return folder


def bits(params) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(params)]


def damages(folder: Path, flips: int, rng: random.Random):
    """Yields the path below `folder` and the new content (None: deleted) of damaged files, `flips` of a bit of each."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size):
        data = path.read_bytes()
        for _ in range(flips):
            flipped = bytearray(data)
            flipped[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            yield path.relative_to(folder), bytes(flipped)
        yield path.relative_to(folder), data[: len(data) // 2]
        yield path.relative_to(folder), None


@pytest.mark.parametrize("flips", [1, pytest.param(50, marks=pytest.mark.faults)])
def test_damaged_checkpoint_is_never_loaded_as_another_one(trained, tmp_path, flips, fault_seed):
    expected = bits(load_params(trained / "checkpoints", MODEL.abstract(), "last")[0])
    refusals = []
    copy = copied(trained, tmp_path / "copy")
    for name, data in damages(trained / "checkpoints/4", flips, random.Random(fault_seed)):
        path = copy / "checkpoints/4" / name
        if data is None:
            path.unlink()
        else:
            path.write_bytes(data)
        try:
            params, step = load_params(copy / "checkpoints", MODEL.abstract(), "last")
        except InputError as error:
            refusals.append(str(error))
        else:  # a file that does not affect the parameters
            assert step == 4, name
            assert bits(params) == expected, name
        shutil.copy(trained / "checkpoints/4" / name, path)
    assert len(refusals) > 20
    assert all("checkpoints/4" in message and "damaged" in message for message in refusals), refusals


def test_damaged_last_checkpoint_is_reported_and_the_one_before_it_used(trained, tmp_path, one_device, capfd):
    folder = copied(trained, tmp_path / "run")
    for path in (folder / "checkpoints/4/params").rglob("d/*"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 4
        path.write_bytes(data)
    train(MODEL, None, batches(4), TRAINING, folder, one_device)
    errors = capfd.readouterr().err
    assert "WARNING" in errors
    assert "checkpoints/4: damaged, " in errors
    assert "the checkpoint before it is used" in errors
    assert (folder / "damaged/4").is_dir()
    assert bits(load_params(folder / "checkpoints", MODEL.abstract(), "last")[0]) == bits(
        load_params(trained / "checkpoints", MODEL.abstract(), "last")[0]
    )
    assert [row["step"] for row in read_metrics(folder / "metrics.jsonl")] == [1, 2, 3, 4]


def test_run_whose_checkpoints_are_all_damaged_is_refused_and_keeps_them(trained, tmp_path, one_device):
    folder = copied(trained, tmp_path / "run")
    for step in (2, 4):
        (folder / f"checkpoints/{step}/_CHECKPOINT_METADATA").write_text("{")
    with pytest.raises(InputError, match=r"checkpoints: all checkpoints are damaged.*--overwrite=train"):
        train(MODEL, None, batches(4), TRAINING, folder, one_device)
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"2", "4"}


@pytest.mark.parametrize("key", ["data", "scores", "arrays"])
def test_altered_record_is_refused(trained, tmp_path, key):
    folder = copied(trained, tmp_path / "run")
    path = folder / "checkpoints/4/_CHECKPOINT_METADATA"
    metadata = json.loads(path.read_text())
    metadata["custom_metadata"][key] = {"data": '{"next_index": 8}', "scores": {"dev_accuracy": 1.0}, "arrays": {}}[key]
    path.write_text(json.dumps(metadata))
    with pytest.raises(InputError, match="_CHECKPOINT_METADATA: damaged, it does not match its checksum"):
        load_params(folder / "checkpoints", MODEL.abstract())


def test_checkpoint_without_digests_is_used_and_reported(trained, tmp_path, capfd):
    """Checkpoints of earlier versions have their scores in a file of their own."""
    folder = copied(trained, tmp_path / "run")
    for step, score in ((2, 0.7), (4, 0.6)):
        path = folder / f"checkpoints/{step}/_CHECKPOINT_METADATA"
        metadata = json.loads(path.read_text())
        metadata["custom_metadata"] = {"data": metadata["custom_metadata"]["data"]}
        path.write_text(json.dumps(metadata))
        scores = folder / f"checkpoints/{step}/metrics/metrics"
        scores.parent.mkdir()
        scores.write_text(json.dumps({"dev_accuracy": score}))
    assert load_params(folder / "checkpoints", MODEL.abstract())[1] == 2
    assert "checkpoints/2: saved by a version that recorded no digests" in capfd.readouterr().err
    with Checkpoints(folder / "checkpoints") as checkpoints:
        assert checkpoints.latest == 4


def test_verify_loads_the_checkpoints_of_unfinished_trainings(trained, tmp_path):
    artefact = Artefact(epath.Path(tmp_path), "train", "s")
    artefact.begin({})
    shutil.copytree(trained / "checkpoints", artefact.path / "checkpoints")
    [result] = verify(str(tmp_path))
    assert (result.state, result.details) == ("incomplete", "checkpoint 2, checkpoint 4")
    (path,) = (artefact.path / "checkpoints/2/optimizer").glob("d/*")  # the optimizer state is compared, too
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    [result] = verify(str(tmp_path))
    assert result.state == "damaged"
    assert "checkpoints/2: damaged" in result.details


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "int8", "bool"])
def test_digests_of_host_and_device_are_equal(dtype):
    rng = np.random.default_rng(0)
    for shape in ((), (3, 4)):
        array = jnp.asarray(9 * rng.normal(size=shape), dtype)
        np.testing.assert_array_equal(_digest(array), digest_on_host(np.asarray(array)))


def test_digest_depends_on_every_bit_and_on_the_order():
    array = np.arange(64, dtype=np.float32)
    original = describe_arrays({"a": jnp.asarray(array)})["a"]
    assert original.startswith("float32[64] ")
    assert original[-16:-8] != original[-8:], "two hashes under different seeds"
    changed = [array[::-1].copy(), np.roll(array, 1), -0.0 * array]
    for element in range(0, 64, 9):
        for bit in range(32):
            other = array.copy()
            other.view(np.uint32)[element] ^= np.uint32(1 << bit)
            changed.append(other)
    assert len({original, *(describe_arrays({"a": jnp.asarray(each)})["a"] for each in changed)}) == len(changed) + 1
