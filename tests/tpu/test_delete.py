"""--delete leaves nothing that costs money; options of the actions on an existing TPU."""

import pytest

from tests.tpu.world import World, wait_for


def existing(world: World) -> tuple[list[str], list[str]]:
    """Return the nodes and the queued resources that exist, and cost."""
    data = world.now()
    return sorted(data.get("nodes", {})), sorted(data.get("requests", {}))


def remembered(world: World) -> bool:
    return (world.state / "t" / "state").exists()


@pytest.mark.parametrize("zone", [[], ["--zone", "z"]])
@pytest.mark.parametrize("kind", [[], ["--queued"], ["--num-slices=2"], ["--project=p"]])
def test_delete_removes_all_that_was_launched(world: World, kind: list[str], zone: list[str]):
    """Check also with --zone: the options that are not given are remembered."""
    assert world.launch(*kind).returncode == 0
    assert existing(world)[0]
    result = world.run("--delete", *zone)
    assert result.returncode == 0, result.stderr
    assert existing(world) == ([], []) and not remembered(world)
    deleted = next(call for call in world.calls if "delete" in call)
    assert ("--project=p" in deleted) == (kind == ["--project=p"])


@pytest.mark.parametrize("options", [["--queued"], ["--num-slices=2"]])
def test_a_waiting_request_is_deleted(world: World, options: list[str]):
    world.play(queue=[["WAITING_FOR_RESOURCES"]])
    launcher = world.start(*options)
    wait_for(lambda: "WAITING_FOR" in (world.path / "launcher.log").read_text())
    launcher.kill()
    launcher.wait()
    result = world.run("--delete", "--zone=z")
    assert result.returncode == 0, result.stderr
    assert existing(world) == ([], []) and not remembered(world)


@pytest.mark.parametrize(
    ("launched", "given"),
    [
        ([], ["--zone", "y"]),
        ([], ["--queued"]),
        ([], ["--num-slices=2"]),
        (["--num-slices=2"], ["--num-slices=1"]),
        (["--project=p"], ["--project=q"]),
    ],
)
def test_options_that_differ_from_the_remembered_ones_are_refused(world: World, launched, given):
    assert world.launch(*launched).returncode == 0
    before = len(world.calls), existing(world)
    for action in ("--delete", "--status", "--stop", "--logs"):
        result = world.run(action, *given)
        assert result.returncode == 2 and "t was launched with" in result.stderr, action
        assert "leave that option out" in result.stderr
    assert (len(world.calls), existing(world)) == before and remembered(world)


def test_a_project_may_be_given_if_none_is_remembered(world: World):
    """Check that gcloud's default may change, and that a wrong project keeps the state."""
    assert world.launch().returncode == 0
    node = world.now()["nodes"].pop("t")
    world.play(**world.now() | {"nodes": {}})
    result = world.run("--delete", "--project=p")
    assert result.returncode == 1 and "launched without --project" in result.stderr
    assert world.count("describe", "--project=p") and remembered(world)
    world.play(**world.now() | {"nodes": {"t": node}})
    assert world.run("--delete", "--project=p").returncode == 0
    assert world.count("delete", "--project=p") == 1 and not remembered(world)


@pytest.mark.parametrize("options", [["--queued"], ["--num-slices=2"]])
def test_a_request_is_found_without_remembered_options(world: World, options: list[str]):
    assert world.launch(*options).returncode == 0
    (world.state / "t" / "state").unlink()
    assert "t: ABSENT" not in world.run("--status", "--zone=z").stdout
    result = world.run("--delete", "--zone=z")
    assert result.returncode == 0 and "there is no t" not in result.stdout
    assert existing(world) == ([], [])


def test_a_failed_deletion_keeps_the_state(world: World):
    assert world.launch().returncode == 0
    world.play(**world.now() | {"delete": ["INTERNAL: try again"] * 3})
    result = world.run("--delete")
    assert result.returncode == 1 and "t is READY after it was deleted" in result.stderr
    assert "INTERNAL: try again" in result.stderr and remembered(world)
    assert world.run("--delete").returncode == 0 and existing(world) == ([], [])


def test_nodes_that_remain_after_their_request_are_deleted(world: World):
    assert world.launch("--num-slices=2").returncode == 0
    world.play(**world.now() | {"stay": ["t-1"], "delete": ["ok"] + ["INTERNAL: no"] * 3})
    result = world.run("--delete")
    assert result.returncode == 1 and "continues to cost" in result.stderr and remembered(world)
    assert existing(world) == (["t-1"], [])
    assert world.run("--delete").returncode == 0 and existing(world) == ([], [])
    assert "there is no t in z" in world.run("--delete", "--zone=z").stdout


def test_nodes_without_their_request_are_remembered_after_a_refusal(world: World):
    assert world.launch("--num-slices=2").returncode == 0
    world.play(**world.now() | {"requests": {}, "create": ["INVALID_ARGUMENT: no"]})
    assert world.launch("--num-slices=2").returncode == 1 and remembered(world)
    assert world.run("--delete").returncode == 0 and existing(world) == ([], [])


@pytest.mark.parametrize("options", [[], ["--num-slices=2"]])
@pytest.mark.parametrize("action", ["--status", "--stop", "--delete", "--logs", "--attach"])
@pytest.mark.parametrize("known", [False, True])
def test_a_dry_run_of_an_action_changes_nothing(
    world: World, action: str, options: list[str], known: bool
):
    zone = ["--zone=z"]
    if known:
        assert world.launch(*options).returncode == 0
        options, zone = [], []
    before = len(world.calls), existing(world)
    result = world.run(action, "--dry-run", *options, *zone)
    assert result.returncode == 0 and result.stderr == ""
    assert (len(world.calls), existing(world)) == before and remembered(world) == known
    lines = [line for line in result.stdout.splitlines() if "gcloud" in line]
    assert lines and all(line.startswith("+ gcloud compute tpus ") for line in lines)
    assert all("--zone=z" in line for line in lines)
    verb = {"logs": "follow"}.get(action[2:], action[2:])
    assert any(verb in line for line in lines)
    if not known:
        assert not world.state.exists()


@pytest.mark.parametrize("options", [[], ["--queued"], ["--num-slices=2"]])
@pytest.mark.parametrize("action", ["--status", "--stop", "--delete"])
def test_a_dry_run_of_an_action_announces_all_calls(world: World, action: str, options: list[str]):
    assert world.launch(*options).returncode == 0
    before = len(world.calls)
    announced = world.run(action, "--dry-run").stdout
    assert world.run(action).returncode == 0
    assert len(world.calls) > before
    for call in world.calls[before:]:
        assert f"+ gcloud {' '.join(call[:4])} {call[4]} " in announced, call


def test_a_lock_that_cannot_be_made_is_an_error(world: World):
    assert world.launch().returncode == 0
    (world.state / "t" / "lock").write_text("")  # a file, so that mkdir fails
    for result in (world.run("--delete"), world.launch()):
        assert result.returncode == 1 and "cannot make the lock" in result.stderr
    assert existing(world) == (["t"], [])
