"""The JobSet manifest: its schema, and agreement with train.py and tpu/gke.md."""

import copy
import json
import math
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from flaxae.config import flags

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = json.loads((Path(__file__).parent / "jobset_schema.json").read_text())
MANIFEST = yaml.safe_load((ROOT / "tpu" / "gke_jobset.yaml").read_text())
SLICES = MANIFEST["spec"]["replicatedJobs"][0]
JOB = SLICES["template"]["spec"]
POD = JOB["template"]["spec"]
TRAIN = POD["containers"][0]


def test_the_manifest_follows_the_schema():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(MANIFEST, SCHEMA)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "failurePolicy", "maxRestart"), 3),
        (("spec", "failurePolicy", "maxRestarts"), "3"),
        (("spec", "replicatedJobs", 0, "template", "spec", "backofflimit"), 0),
        (("spec", "replicatedJobs", 0, "template", "spec", "template", "spec", "containers"), []),
        (("spec", "replicatedJobs", 0, "template", "spec", "template", "spec", "volumes", 0), {}),
        (("apiVersion",), "jobset.x-k8s.io/v1alpha1"),
    ],
)
def test_the_schema_finds_mistakes(path: tuple, value: Any):
    manifest = copy.deepcopy(MANIFEST)
    parent = manifest
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(manifest, SCHEMA)


def test_there_is_one_pod_per_host_with_all_of_its_chips():
    chips = TRAIN["resources"]["limits"]["google.com/tpu"]
    assert TRAIN["resources"]["requests"]["google.com/tpu"] == chips
    topology = POD["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    hosts = math.prod(map(int, topology.split("x"))) // chips
    assert JOB["completions"] == JOB["parallelism"] == hosts == 4
    assert JOB["completionMode"] == "Indexed" and len(POD["containers"]) == 1


def outcome(code: int) -> str:
    """Return JobSet's reaction to a nonzero exit code of a host."""
    assert JOB["backoffLimit"] == 0 and POD["restartPolicy"] == "Never"
    reason = "BackoffLimitExceeded"
    for rule in JOB["podFailurePolicy"]["rules"]:
        codes = rule["onExitCodes"]
        assert codes["containerName"] == TRAIN["name"]
        if (code in codes["values"]) == (codes["operator"] == "In"):
            reason = {"FailJob": "PodFailurePolicy"}[rule["action"]]
            break
    for rule in MANIFEST["spec"]["failurePolicy"]["rules"]:
        if reason in rule["onJobFailureReasons"]:
            return {"FailJobSet": "end", "RestartJobSet": "again"}[rule["action"]]
    return "again"


def test_only_mistakes_and_stops_by_hand_end_the_jobset():
    """Check also 75 (preempted), 69 (another host gone), 134, 137 and 143 (signals)."""
    codes = (1, 2, 69, 75, 130, 134, 137, 143)
    assert [code for code in codes if outcome(code) == "end"] == [2, 130]
    assert MANIFEST["spec"]["failurePolicy"]["maxRestarts"] >= 10


def test_train_py_receives_the_signal_and_has_time_to_save():
    assert TRAIN["command"] == ["python", "train.py"]
    assert POD["terminationGracePeriodSeconds"] >= 60


def test_the_port_equals_the_launchers():
    env = {entry["name"]: entry["value"] for entry in TRAIN["env"]}
    default = re.search(r"PORT=(\d+)", (ROOT / "tpu" / "run.sh").read_text())
    assert default and env["JAX_COORDINATOR_PORT"] == default[1] == "8476"
    assert {"containerPort": 8476} in TRAIN["ports"]


def test_train_py_accepts_the_arguments(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    config, workdir, _ = flags.parse(["train.py", *TRAIN["args"]])
    assert workdir.startswith("gs://")
    assert config.mesh.replica == SLICES["replicas"] == 1


def test_the_data_are_mounted_where_train_py_reads_them(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    config, workdir, _ = flags.parse(["train.py", *TRAIN["args"]])
    (volume,), (mount,) = POD["volumes"], TRAIN["volumeMounts"]
    assert mount["name"] == volume["name"] and mount["readOnly"]
    assert Path(mount["mountPath"]) in Path(config.data.path).parents
    assert volume["csi"]["driver"] == "gcsfuse.csi.storage.gke.io"
    bucket = volume["csi"]["volumeAttributes"]["bucketName"]
    assert bucket == workdir.removeprefix("gs://").split("/")[0]
    # Without this annotation the driver mounts nothing, and the pod does not start.
    assert JOB["template"]["metadata"]["annotations"]["gke-gcsfuse/volumes"] == "true"


def test_the_xpk_workload_has_the_data(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    page = (ROOT / "tpu" / "gke.md").read_text()
    arguments = re.search(r'--command="python (train.py [^"]*)"', page)
    storage = re.search(r"xpk storage attach (\S+) (?:.|\n)*?--mount-point=(\S+)", page)
    assert arguments and storage and f" --storage={storage[1]}" in page
    config, _, _ = flags.parse(arguments[1].split())
    assert Path(storage[2]) in Path(config.data.path).parents


def test_the_page_mentions_the_manifest_and_the_exit_codes():
    page = (ROOT / "tpu" / "gke.md").read_text()
    assert "kubectl apply -f tpu/gke_jobset.yaml" in page
    for code in JOB["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"]:
        assert f"{code}" in page
