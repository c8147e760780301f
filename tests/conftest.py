"""Strict settings for every test, and fixtures that several test modules share."""

import contextlib
import gc
import os
from collections.abc import Callable
from pathlib import Path

with contextlib.suppress(ImportError):
    # CUDA wheels of PyTorch install triton, which crashes if TensorFlow is imported first. Tests use both as oracles.
    import triton  # noqa: F401

import hypothesis
import jax
import pytest

from scotd_jax import config
from scotd_jax.distributed.mesh import make_mesh
from tests.helpers import collect_less, fast_compile

jax.config.update("jax_num_cpu_devices", 8)  # sharding is tested on every machine
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_debug_key_reuse", True)
hypothesis.settings.register_profile("suite", deadline=None)  # a busy machine is no error
hypothesis.settings.load_profile("suite")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may depend on a network


def pytest_collection_finish():
    collect_less.after_imports()


@pytest.fixture(scope="module", autouse=True)
def _programs_are_freed():
    """Frees compiled programs when there are many: Linux allows a process 65,530 maps, and each program has several.

    Beyond that LLVM crashes, as it did once in a whole run on jax 0.12.
    """
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 30_000:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real questions, rationales and tokenizers; never part of the repository."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("../shared/data not present: real-data tests need it")
    return folder


@pytest.fixture
def fault_seed(record_property) -> int:
    """The seed of what a test draws at random: 0, but another one in every run of `make test-faults`."""
    seed = int(os.environ.get("FAULTS_SEED", "0"))
    record_property("seed", seed)
    print(f"FAULTS_SEED={seed}")  # pytest prints it if the test fails
    return seed


@pytest.fixture(scope="session")
def real_corpora(shared_data, tmp_path_factory) -> Callable[[str], Path]:
    """Returns a function of the name of a real set of rationales that returns a work directory with its corpora."""
    from tests.helpers.real_corpora import build

    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # of all workers
    return lambda name: build(folder, name, shared_data)


@pytest.fixture(scope="module")
def calls_are_not_retraced():
    """For modules that call a jitted update often: the check for reused keys would retrace it at every call."""
    with jax.debug_key_reuse(False):
        yield


@pytest.fixture(scope="module")
def fast_compilation():
    """Compiles faster (tests/helpers/fast_compile.py), for modules that compare values within a tolerance."""
    with fast_compile.fast_compilation():
        yield


@pytest.fixture(scope="module")
def unoptimized_code():
    """Compiles faster, but with the default fusions and buffers, for modules that compare memory or FLOPs."""
    with fast_compile.unoptimized_code():
        yield


@pytest.fixture
def default_compilation():
    """Compiles by default in a module that uses `fast_compilation`, for tests of the bits of different programs."""
    with fast_compile.fast_compilation(False):
        yield


@pytest.fixture(scope="session")
def one_device() -> jax.sharding.Mesh:
    return make_mesh(config.Mesh(), jax.devices()[:1])


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """A folder with a tiny OPT and its tokenizer."""
    from scotd_jax.models.hf.export import export_pretrained
    from tests.helpers.hf_cases import CONFIGS, random_params, words

    folder = tmp_path_factory.mktemp("tiny")
    export_pretrained(folder, CONFIGS["opt"], random_params(CONFIGS["opt"]), words(), "# Tiny\n")
    return folder


@pytest.fixture(scope="session")
def chat_home(tmp_path_factory) -> Path:
    """A folder with a small chat model and a task (tests/helpers/chat_model.py)."""
    from tests.helpers.chat_model import write_model, write_task

    folder = tmp_path_factory.mktemp("home")
    write_model(folder)
    write_task(folder)
    return folder


@pytest.fixture
def hub(tiny_model, tmp_path):
    """A hub with the repository ann/tiny, to which the client of this process is connected; the cache is empty."""
    from tests.helpers.loopback_hub import connected, files_of, serving_hub

    with serving_hub() as server, connected(server, tmp_path / "cache"):
        server.add("ann/tiny", files_of(tiny_model))
        yield server
