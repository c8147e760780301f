"""launch/kubernetes.sh creates a valid JobSet for TPUs and GPUs, and works with a stand-in for kubectl that fails.

jobset_schema.json has the fields that the JobSet uses, from the custom resource definition of JobSet (v1alpha2) and
from batch/v1 and core/v1 of Kubernetes. Any other field, type or value is an error.
"""

import json
import re
from pathlib import Path

import pytest
import yaml

from tests.launch.stand_ins import KUBECTL, RECORD, calls, cloud_folder, launch

IMAGE = "--image=us-docker.pkg.dev/p/images/scotd-jax:tpu"
TPU = ("--accelerator=tpu-v6e-slice", "--topology=4x4", "--queue=research", IMAGE)
GPU = ("--accelerator=nvidia-h100-80gb", "--nodes=2", "--claim=shared", "--secret=hugging-face", IMAGE)
MAIN = ("--", "--config=world:seed=5", '--workdir=gs://bucket/it\'s "mine" $(HOME)\\n')
CHAIN = ("create", "wait", "logs", "delete")
SCHEMA = json.loads((Path(__file__).parent / "jobset_schema.json").read_text())
TYPES = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool}


def problems(value, schema: dict, path: str = "") -> list[str]:
    """The places where a value does not fit the schema. Properties that are not listed do not fit."""
    if "$ref" in schema:
        schema = SCHEMA["definitions"][schema["$ref"]]
    if "enum" in schema:
        return [] if value in schema["enum"] else [f"{path}: {value!r} is not in {schema['enum']}"]
    if type(value) is not TYPES[schema["type"]]:
        return [f"{path}: {value!r} is no {schema['type']}"]
    if schema["type"] == "array":
        return [p for i, item in enumerate(value) for p in problems(item, schema["items"], f"{path}[{i}]")]
    if schema["type"] == "object":
        found = [f"{path}.{name}: missing" for name in schema.get("required", ()) if name not in value]
        for name, item in value.items():
            inner = schema.get("properties", {}).get(name) or schema.get("additionalProperties")
            found += problems(item, inner, f"{path}.{name}") if inner else [f"{path}.{name}: unknown"]
        return found
    return [] if re.search(schema.get("pattern", ""), str(value)) else [f"{path}: {value!r} has another form"]


def jobset(*options: str) -> dict:
    """The JobSet of a dry run."""
    done = launch("kubernetes.sh", *options, "--dry-run", "create", *MAIN)
    assert done.returncode == 0, done.stderr
    first, *lines, last = done.stdout.splitlines()
    assert (first, last) == ("kubectl create --filename=- <<'EOF'", "EOF")
    return yaml.safe_load("\n".join(lines))


def parts(document: dict) -> tuple[dict, dict, dict]:
    """The job, the pod and the container of a JobSet."""
    job = document["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    return job, pod, pod["containers"][0]


@pytest.mark.parametrize("options", [TPU, GPU], ids=["tpu", "gpu"])
def test_jobset_fits_the_schemas(options):
    document = jobset(*options)
    assert problems(document, SCHEMA) == []
    _, _, container = parts(document)
    container["imag"] = container.pop("image")
    document["spec"]["failurePolicy"]["maxRestarts"] = "3"
    assert len(problems(document, SCHEMA)) == 2, "the check can fail"


def test_jobset_of_a_tpu_slice():
    document = jobset(*TPU)
    assert document["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "research"
    job, pod, container = parts(document)
    assert job["completions"] == job["parallelism"] == 4
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v6e-slice",
        "cloud.google.com/gke-tpu-topology": "4x4",
    }
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    assert container["args"] == [
        "--multihost=auto",
        "--devices=16",
        "--config=world:seed=5",
        '--workdir=gs://bucket/it\'s "mine" $$(HOME)\\n',
    ]


@pytest.mark.parametrize(
    ("accelerator", "topology", "chips", "pods", "devices"),
    [
        ("tpu7x", "2x2x2", "4", 2, 16),
        ("tpu-v5-lite-podslice", "2x4", "8", 1, 8),
        ("tpu-v5p-slice", "2x2x4", "4", 4, 16),
    ],
)
def test_pods_and_devices_of_topologies(accelerator, topology, chips, pods, devices):
    document = jobset(f"--accelerator={accelerator}", f"--topology={topology}", f"--chips={chips}", IMAGE)
    job, _, container = parts(document)
    assert job["completions"] == pods
    assert f"--devices={devices}" in container["args"]


def test_jobset_of_gpu_nodes_connects_to_the_first_pod():
    document = jobset(*GPU)
    job, pod, container = parts(document)
    name = document["metadata"]["name"]
    assert job["completions"] == 2
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 8}
    assert container["args"][:2] == [f"--multihost={name}-workers-0-0.{name}:8476,$(PROCESS),2", "--devices=16"]
    assert {"name": "work", "persistentVolumeClaim": {"claimName": "shared"}} in pod["volumes"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*TPU,), "no action"),
        ((*TPU, "create"), "pass --workdir="),
        ((*TPU, "create", "--", "--workdir=/work/x"), "add --claim"),
        ((*TPU, "create", "--", "--workdir=gs://b/a\nb"), "line break"),
        ((*TPU, "delete", *MAIN), "create, which is not among the actions"),
        ((TPU[0], IMAGE, "create", *MAIN), "--topology: expected"),
        ((*TPU, "--topology=3x3", "create", *MAIN), "expected a multiple of --chips=4"),
        ((*GPU, "--topology=4x4", "create", *MAIN), "is an option of TPUs"),
        ((*TPU, "--name=--all", "delete"), "--name: expected"),
        ((*TPU, "--queue=a: b", "create", *MAIN), "--queue: expected"),
        ((*GPU[:-1], "create", *MAIN), "--image: expected"),
    ],
)
def test_invalid_arguments_are_refused(arguments, message):
    done = launch("kubernetes.sh", "--dry-run", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """The folder of the files of a fake kubectl; the JobSet restarts once and completes."""
    folder = cloud_folder(tmp_path, monkeypatch, kubectl=RECORD + KUBECTL)
    (folder / "states").write_text("/0\n/1\nCompleted/1\n")
    (folder / "context").write_text("cluster\n")
    return folder


def call(cluster, *arguments: str):
    return launch("kubernetes.sh", "--poll=0", f"--logs={cluster / 'logs'}", *TPU, *arguments)


def test_create_wait_logs_and_delete(cluster):
    done = call(cluster, *CHAIN, *MAIN)
    assert done.returncode == 0, done.stderr
    assert "restarts: 1" in done.stderr
    assert (cluster / "logs" / "pods.log").read_text() == "[pod/x] done\n"
    assert not (cluster / "jobset.yaml").exists()
    assert call(cluster, "delete").returncode == 1, "nothing is left that was created from here"


def test_failed_jobset_is_a_failure_but_is_deleted(cluster):
    (cluster / "states").write_text("Failed/3\n")
    assert call(cluster, *CHAIN, *MAIN).returncode == 1
    assert not (cluster / "jobset.yaml").exists()


def test_second_jobset_of_a_name_is_refused(cluster):
    assert call(cluster, "create", *MAIN).returncode == 0
    done = call(cluster, "create", *MAIN)
    assert done.returncode == 1
    assert "exists: delete it first" in done.stderr
    assert [line.split()[1] for line in calls(cluster)] == ["config", "create", "config"]


def test_jobset_in_another_cluster_is_not_forgotten(cluster):
    call(cluster, "create", *MAIN)
    (cluster / "context").write_text("another\n")
    for action in (["delete"], ["create", *MAIN]):
        done = call(cluster, *action)
        assert done.returncode == 1
        assert "belongs to 'cluster default', not to 'another default'" in done.stderr
    assert (cluster / "jobset.yaml").exists()


def test_jobset_of_another_owner_is_not_deleted(cluster):
    call(cluster, "create", *MAIN)
    (cluster / "jobset.yaml").write_text("metadata:\n  labels:\n    scotd-jax-run: of-another-owner\n")
    assert call(cluster, "delete").returncode == 0
    assert (cluster / "jobset.yaml").exists()


@pytest.mark.slow
@pytest.mark.parametrize("when", ["", " after"], ids=["before", "after"])
def test_failure_of_any_call_leaves_nothing_that_a_second_delete_does_not_find(cluster, when):
    for number in range(1, 11):
        (cluster / "states").write_text("/0\n/1\nCompleted/1\n")
        (cluster / "fail_at").write_text(f"{number}{when}\n")
        done = call(cluster, *CHAIN, *MAIN)
        failed = calls(cluster)[number - 1]
        assert done.returncode == 1 or failed.startswith("kubectl get"), failed
        (cluster / "calls").unlink()
        (cluster / "fail_at").unlink()
        call(cluster, "delete")
        assert not (cluster / "jobset.yaml").exists(), failed
