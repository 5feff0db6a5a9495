"""A TPU counts as absent only if gcloud says so; anything else may still cost money."""

import subprocess
from pathlib import Path

import pytest

from tests.tpu.world import BASH, ROOT, World

STATE = "TYPE=v5litepod-8\nZONE=z\nPROJECT={project}\nRUNTIME=v2-alpha-tpuv5-lite\nSPOT={spot}\n"
STATE += "QUEUED={queued}\nNUM_SLICES=1\nID=x\nATTEMPT=1\nOPEN=0\nTRIES=0\nOFFSET=0\n"
PATH = "projects/p/locations/z/nodes/t"
COMMAND = "ERROR: (gcloud.compute.tpus.tpu-vm.describe)"
HINT = "This command is authenticated as a@b which is the active account specified by the property"
# Errors of which each contains what a loose pattern takes for "there is no such TPU".
UNCLEAR = {
    "a request id": f"{COMMAND} UNAVAILABLE: request 7f404a1c failed",
    "a project number": f"{COMMAND} INTERNAL: try again (projects/140455/locations/z)",
    "credentials": f"{COMMAND} Your default credentials were not found. To set up ...",
    "a permission": f"{COMMAND} PERMISSION_DENIED: '{PATH}' (or it may not exist). {HINT}",
    "the project": f"{COMMAND} NOT_FOUND: Resource 'projects/p' was not found. {HINT}",
    "a project of this name": f"{COMMAND} NOT_FOUND: t was not found",
    "a slice": f"{COMMAND} NOT_FOUND: Resource '{PATH}-0' was not found. {HINT}",
    "a longer name": f"{COMMAND} NOT_FOUND: Resource '{PATH.removesuffix('t')}not' was not found",
    "a zone": f"{COMMAND} NOT_FOUND: Resource 'projects/p/locations/y/nodes/t' was not found",
    "a network": f"{COMMAND} NOT_FOUND: Network of '{PATH}' was not found\n  resourceName: n/t",
    "a quotation": f"{COMMAND} INTERNAL: cause: NOT_FOUND: Resource '{PATH}' was not found",
    "another program": f"warning: NOT_FOUND: Resource '{PATH}' was not found",
    "a crash": "ERROR: gcloud crashed (FileNotFoundError): /404/NOT_FOUND",
    "no gcloud": "run.sh: line 1: gcloud: command not found",
    "no text": "",
}
CLEAR = [
    f"{COMMAND} NOT_FOUND: Resource '{PATH}' was not found. {HINT}\n- '@type': x",
    f"WARNING: an update\n{COMMAND} NOT_FOUND: Requested entity.\n- x\n  resourceName: {PATH}",
    "ERROR: (gcloud.compute.tpus) NOT_FOUND: Resource t was not found",
    f"{COMMAND} NOT_FOUND: {PATH} does not exist",
    f'{COMMAND} {{\n  "code": 5,\n  "message": "Resource \'{PATH}\' was not found"\n}}',
]
TRAPS = ["404", "not found", "NOT_FOUND", "already exists", "quota limits", "no more capacity"]
TRAPS += [HINT, "Invalid value", "PERMISSION_DENIED: x", "RESOURCE_EXHAUSTED"]


def classify(folder: Path, texts: list[str]) -> list[list[str]]:
    """Return what the launcher reads from each error: status, absence, finality."""
    for number, text in enumerate(texts):
        (folder / f"{number:03}").write_text(text + "\n" if text else "")
    script = f"""NAME=t ZONE=z; . "{ROOT}/tpu/lib/gcloud.sh"
    for file in "{folder}"/*; do
      read_error "$file" 1; echo "$STATUS" \
        "$(says_absent "$file" tpu-vm t && echo ABSENT || echo UNKNOWN)" \
        "$(is_final && echo final || echo again)"
    done"""
    out = subprocess.run([BASH, "-c", script], capture_output=True, text=True, check=True).stdout
    return [line.split() for line in out.splitlines()]


def test_only_not_found_of_this_resource_means_absent(tmp_path: Path):
    found = classify(tmp_path, [*UNCLEAR.values(), *CLEAR])
    absent = dict(zip([*UNCLEAR, *CLEAR], [words[1] for words in found], strict=True))
    assert absent == dict.fromkeys(UNCLEAR, "UNKNOWN") | dict.fromkeys(CLEAR, "ABSENT")


def test_the_text_of_an_error_never_changes_its_status(tmp_path: Path):
    final = ["PERMISSION_DENIED", "FAILED_PRECONDITION"]
    again = ["UNAVAILABLE", "ALREADY_EXISTS"]
    cases = [(status, trap) for status in final + again for trap in TRAPS]
    found = classify(tmp_path, [f"{COMMAND} {status}: {trap} (id 404)" for status, trap in cases])
    for (status, trap), words in zip(cases, found, strict=True):
        assert words == [status, "UNKNOWN", "final" if status in final else "again"], trap


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("RESOURCE_EXHAUSTED: Quota limit 'X' has been exceeded. Limit: 0 in zone z.", "QUOTA"),
        ("RESOURCE_EXHAUSTED: Quota 'TPU_CAPACITY' exhausted. Limit 0", "QUOTA"),
        ("RESOURCE_EXHAUSTED: You have exceeded your quota for TPUs", "QUOTA"),
        ("RESOURCE_EXHAUSTED: no more capacity in project my-quota-project", "CAPACITY"),
        ("RESOURCE_EXHAUSTED: There is no more capacity (see /docs/quota)", "CAPACITY"),
        ('{\n  "code": 8,\n  "message": "There is no more capacity in \\"z\\""\n}', "CAPACITY"),
        ("RESOURCE_EXHAUSTED: Quota exceeded for 'Read requests per minute'", "UNAVAILABLE"),
        ('{\n  "code": 9,\n  "message": "denied"\n}', "FAILED_PRECONDITION"),
        ("argument --zone: Invalid choice: 'z'", "USAGE"),
        ("Invalid value for [--version]: x", "USAGE"),
        ("The required property [project] is not currently set.", "LOGIN"),
        ("There is no more capacity in the zone: Invalid value for [x]", "OTHER"),
    ],
)
def test_quota_capacity_and_mistakes_are_told_apart(tmp_path: Path, text: str, expected: str):
    assert classify(tmp_path, [f"{COMMAND} {text}"])[0][0] == expected


def own(world: World, states: tuple[str, ...] = ("READY",), **remembered: str) -> None:
    """Set up a TPU as an earlier launch leaves it, with its state remembered."""
    folder = world.state / "t"
    folder.mkdir(parents=True)
    values = {"project": "", "spot": "0", "queued": "0"} | remembered
    (folder / "state").write_text(STATE.format(**values))
    node = {"hosts": 1, "type": "v5litepod-8", "incarnation": 1, "states": list(states)}
    data = world.now() | {"nodes": {"t": node | {"health": ["HEALTHY"]}}, "made": {"t": 1}}
    if values["queued"] == "1":
        data["requests"] = {"t": {"states": ["ACTIVE"], "nodes": ["t"]}}
    world.play(**data)
    (world.fake / "nodes" / "t.1" / "w0").mkdir(parents=True)


def remembered(world: World) -> bool:
    return (world.state / "t" / "state").exists() and "t" in world.now()["nodes"]


@pytest.mark.parametrize("action", ["--delete", "--status", "--stop"])
@pytest.mark.parametrize("cause", ["a request id", "credentials"])
def test_an_action_on_a_tpu_of_unknown_state_ends_with_1(world: World, action: str, cause: str):
    own(world)
    world.play(**world.now() | {"describe": [UNCLEAR[cause]]})
    result = world.run(action)
    assert result.returncode == 1 and "may still cost money" in result.stderr
    assert "there is no t" not in result.stdout + result.stderr and "ABSENT" not in result.stdout
    assert f"try {action} again" in result.stderr and remembered(world)
    assert world.count("delete") == 0


@pytest.mark.parametrize("errors", [["ok", "UNAVAILABLE: 404"], ["ok"] * 2 + ["UNAVAILABLE: 404"]])
def test_all_of_a_queued_tpu_must_be_known_to_be_gone(world: World, errors: list[str]):
    own(world, queued="1")
    world.play(**world.now() | {"describe": errors, "requests": {}, "delete": ["INTERNAL: no"] * 9})
    result = world.run("--delete")
    assert result.returncode == 1 and "cost" in result.stderr and remembered(world)


@pytest.mark.parametrize("action", ["--delete", "--status", "--stop", "--logs", "--attach"])
def test_each_action_needs_gcloud(world: World, action: str):
    own(world)
    path = world.path / "programs"
    path.mkdir()
    for name in ("bash", "dirname", "mkdir", "rmdir", "rm", "mktemp", "cat", "awk", "sed", "date"):
        for folder in ("/bin", "/usr/bin"):
            if Path(folder, name).exists() and not (path / name).exists():
                (path / name).symlink_to(Path(folder, name))
    result = world.run(action, PATH=str(path))
    assert result.returncode == 1 and "gcloud is not installed" in result.stderr
    assert "may still cost money" in result.stderr and remembered(world)


def test_a_launch_creates_nothing_while_the_state_is_unknown(world: World):
    own(world)
    world.play(**world.now() | {"describe": [UNCLEAR["a request id"]] * 99})
    result = world.launch("--max-retries=1")
    assert result.returncode == 1 and "t: UNKNOWN" in result.stdout and world.count("create") == 0
    assert "may still exist and cost money" in result.stdout and remembered(world)


@pytest.mark.parametrize("cause", ["a permission", "the project", "credentials"])
def test_a_launch_ends_if_the_state_will_stay_unknown(world: World, cause: str):
    own(world)
    world.play(**world.now() | {"describe": [UNCLEAR[cause]] * 99})
    result = world.launch()
    assert result.returncode == 1 and "may still cost money" in result.stderr and remembered(world)
    assert world.count("describe") == 2 and world.count("create") == 0


@pytest.mark.parametrize("error", ["FAILED_PRECONDITION: no", "PERMISSION_DENIED: no"])
def test_a_refused_creation_keeps_what_is_not_known_to_be_gone(world: World, error: str):
    world.play(create=[error], describe=["ok", UNCLEAR["a request id"]])
    result = world.launch()
    assert result.returncode == 1 and world.count("create") == 1
    assert error in result.stderr and "may cost money" in result.stderr
    assert (world.state / "t" / "state").exists()


def test_the_default_project_is_remembered(world: World):
    """Check that a TPU is not forgotten after gcloud's default has changed."""
    world.play(project="mine", create=["PERMISSION_DENIED: no"], describe=["ok", "UNAVAILABLE: x"])
    assert world.launch().returncode == 1
    assert "PROJECT=mine\n" in (world.state / "t" / "state").read_text()
    world.play(**world.now() | {"project": "another", "create": ["PERMISSION_DENIED: no"]})
    assert world.launch().returncode == 1
    assert world.count("create", "--project=mine") == 2


def test_a_missing_bucket_is_told_from_missing_credentials(world: World):
    for text in ("Your default credentials were not found", "UNAVAILABLE: id 404, does not exist"):
        world.play(bucket_error=text, create=["PERMISSION_DENIED: no"])
        result = world.launch()
        assert result.returncode == 1 and "cannot list gs://bucket from here" in result.stderr


@pytest.mark.parametrize(
    ("spot", "state"), [("1", "STOPPED"), ("1", "PREEMPTING"), ("0", "UNKNOWN")]
)
def test_a_preempted_tpu_in_another_state_is_deleted_first(world: World, spot: str, state: str):
    own(world, states=(state,), spot=spot)
    world.play(**world.now() | {"create": ["PERMISSION_DENIED: end"]})
    result = world.launch(*["--spot"] * int(spot), FLAXAE_TPU_UNWELL="2")
    assert result.returncode == 1, result.stdout
    verbs = [call[3] for call in world.calls if call[3:4] in (["delete"], ["create"])]
    assert verbs == ["delete", "create"]


def test_a_launcher_that_may_not_delete_ends(world: World):
    own(world, states=("PREEMPTED",))
    world.play(**world.now() | {"delete": ["PERMISSION_DENIED: no"] * 9})
    result = world.launch()
    assert result.returncode == 1 and "continues to cost money" in result.stderr
    assert world.count("delete") == 1 and world.count("create") == 0 and remembered(world)


def test_a_failed_request_shows_its_cause(world: World):
    world.play(queue=[["FAILED"]], failure="9\tnot allowed here")
    result = world.launch("--queued")
    assert result.returncode == 1 and world.count("create") == world.count("delete") == 1
    assert "the request for t failed: FAILED_PRECONDITION: not allowed here" in result.stderr
