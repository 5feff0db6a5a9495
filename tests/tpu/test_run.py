"""Reactions of tpu/run.sh to states of the TPU and exit codes of train.py."""

import os
import signal
from typing import Any

import pytest

from tests.tpu.world import ARGS, World, wait_for

HANG = {"wait": "never"}


def preempted(trained: int) -> dict[str, Any]:
    """Return a plan that preempts the TPU after that number of starts of train.py."""
    return {"trained": trained, "preempt": True}


def exit_file(worker: int) -> str:
    """Return the file that exists once a worker has ended."""
    return f"nodes/t.1/w{worker}/flaxae-tpu/t/exit"


def test_a_launch_creates_sets_up_starts_and_follows(world: World):
    world.play(hosts=2)
    world.plan(a1={"0": {"lines": ["zero is here"]}, "1": {"lines": ["one is here"]}})
    result = world.launch("--spot")
    assert result.returncode == 0, result.stderr
    assert "t: ABSENT" in result.stdout and "t: READY" in result.stdout
    assert "zero is here" in result.stdout and "one is here" not in result.stdout
    create = next(call for call in world.calls if "create" in call)
    assert create[:5] == ["compute", "tpus", "tpu-vm", "create", "t"]
    options = {"--accelerator-type=v5litepod-8", "--version=v2-alpha-tpuv5-lite"}
    assert options | {"--zone=z", "--spot"} <= set(create)
    assert [(t["worker"], t["attempt"], t["port"]) for t in world.trained] == [
        ("0", "1", "8476"),
        ("1", "1", "8476"),
    ]
    assert (
        world.count("delete") == 0 and "costs money: tpu/run.sh --name t --delete" in result.stdout
    )
    for worker, text in enumerate(["zero is here", "one is here"]):
        assert text in (world.home(worker) / "logs" / "1.log").read_text()
        assert (world.home(worker) / "exit").read_text().split()[:2] == ["1", "0"]
    assert "zero is here" in (world.state / "t" / "worker0.log").read_text()


def test_the_tpu_is_deleted_when_done_only_if_asked(world: World):
    result = world.launch("--delete-when-done", "--port=9000")
    assert result.returncode == 0 and world.count("tpu-vm", "delete") == 1
    assert world.trained[0]["port"] == "9000"
    assert not (world.state / "t" / "state").exists()


@pytest.mark.parametrize(
    ("kind", "runtime"),
    [
        ("v4-8", "tpu-ubuntu2204-base"),
        ("v5p-8", "v2-alpha-tpuv5"),
        ("v6e-8", "v2-alpha-tpuv6e"),
        ("v9-8", None),
    ],
)
def test_the_runtime_depends_on_the_type(world: World, kind: str, runtime: str | None):
    args = ["--workdir=gs://bucket/r"]
    result = world.run("--type", kind, "--zone", "z", "--dry-run", args=args)
    if runtime is None:
        assert result.returncode == 2 and "no --runtime is known for --type v9-8" in result.stderr
    else:
        assert f"--version={runtime}" in result.stdout


def test_creation_is_retried_without_capacity(world: World):
    world.play(create=["RESOURCE_EXHAUSTED: There is no more capacity in the zone"] * 2)
    result = world.launch()
    assert result.returncode == 0, result.stderr
    assert world.count("create") == 3
    assert "z has no v5litepod-8 free" in result.stdout
    assert "retry 1 of 20 in 15 s" in result.stdout and "retry 2 of 20 in 30 s" in result.stdout


def test_retries_are_bounded(world: World):
    world.play(create=["RESOURCE_EXHAUSTED: no more capacity"] * 9)
    result = world.launch("--max-retries=3")
    assert result.returncode == 1 and world.count("create") == 4
    assert "gave up after 3 retries in a row" in result.stderr
    assert world.launch("--max-retries=5").returncode == 0  # the count restarts


def test_an_existing_but_invisible_tpu_is_a_failed_attempt(world: World):
    world.play(create=["ALREADY_EXISTS: t already exists"] * 9)
    result = world.launch("--max-retries=3")
    assert result.returncode == 1 and world.count("create") == 4
    assert "retry 2 of 3 in 30 s" in result.stdout and "it exists already" in result.stdout
    assert "gave up after 3 retries in a row" in result.stderr


def test_a_tpu_that_vanishes_at_once_is_a_failed_attempt(world: World):
    world.play(create=["lost"] * 9)
    result = world.launch("--max-retries=3")
    assert result.returncode == 1 and world.count("create") == 4
    assert "t was created but does not exist; retry 3 of 3" in result.stdout


@pytest.mark.parametrize("health", ["UNHEALTHY_TENSORFLOW", "UNHEALTHY_MAINTENANCE", "TIMEOUT"])
def test_a_tpu_that_remains_unhealthy_is_replaced(world: World, health: str):
    world.play(health=[[health]])
    result = world.launch(FLAXAE_TPU_UNWELL="3")
    assert result.returncode == 0, result.stderr
    assert world.count("create") == 2 and world.count("delete") == 1
    state = health if health.startswith("UNHEALTHY") else f"UNHEALTHY_{health}"
    assert f"t remained {state}; retry 1 of 20" in result.stdout


def test_unhealthy_tpus_are_not_replaced_forever(world: World):
    world.play(health=[["TIMEOUT"]] * 9)
    result = world.launch("--max-retries=2", FLAXAE_TPU_UNWELL="3")
    assert result.returncode == 1 and world.count("create") == 3
    assert "the last reason: t remained UNHEALTHY_TIMEOUT" in result.stderr


def test_a_tpu_that_becomes_healthy_is_used(world: World):
    world.play(health=[["UNHEALTHY_MAINTENANCE"] * 2 + ["HEALTHY"]])
    result = world.launch(FLAXAE_TPU_UNWELL="3")
    assert result.returncode == 0, result.stderr
    assert world.count("create") == 1 and "t: UNHEALTHY_MAINTENANCE" in result.stdout


def test_a_run_on_an_unhealthy_tpu_is_followed(world: World):
    world.plan(a1={"*": {"wait": "go", "lines": ["begun"]}})
    launcher = world.start()
    log = world.path / "launcher.log"
    wait_for(lambda: "begun" in log.read_text())
    launcher.send_signal(signal.SIGKILL)
    launcher.wait()
    data = world.now()
    data["nodes"]["t"]["health"] = ["UNHEALTHY_MAINTENANCE"]
    world.play(**data)
    launcher = world.start(FLAXAE_TPU_UNWELL="2")
    wait_for(lambda: "but training continues on it" in log.read_text())
    (world.fake / "go").touch()
    assert launcher.wait(60) == 0
    assert world.count("create") == 1 and world.count("delete") == 0


@pytest.mark.parametrize(
    "error", ["PERMISSION_DENIED: no", "INVALID_ARGUMENT: no", "RESOURCE_EXHAUSTED: Quota limit"]
)
def test_errors_that_waiting_cannot_fix_end_at_once(world: World, error: str):
    world.play(create=[error])
    result = world.launch()
    assert result.returncode == 1 and error in result.stderr and world.count("create") == 1


def test_a_run_is_done_after_two_preemptions(world: World):
    world.play(hosts=2)
    world.plan(a1={"1": preempted(2), "0": HANG}, a2={"1": preempted(4), "0": HANG})
    result = world.launch("--spot")
    assert result.returncode == 0, result.stderr
    assert world.count("create") == 3 and world.count("delete") == 2
    assert [t["attempt"] for t in world.trained] == ["1", "1", "2", "2", "3", "3"]
    assert "t was PREEMPTED" in result.stdout and "step of attempt 3" in result.stdout


def test_a_run_saved_on_sigterm_restarts_on_the_same_tpu(world: World):
    world.play(hosts=2)
    world.plan(a1={"*": {"code": 75}})
    result = world.launch()
    assert result.returncode == 0, result.stderr
    assert world.count("create") == 1
    assert [t["attempt"] for t in world.trained] == ["1", "1", "2", "2"]


def test_only_the_worker_that_failed_first_is_shown(world: World):
    world.play(hosts=4)
    plan = {
        str(i): {"lines": [f"peer {i} is lost"], "wait": exit_file(3), "code": 134}
        for i in range(3)
    }
    world.plan(a1=plan | {"3": {"lines": ["the cause"], "code": 3}})
    result = world.launch()
    assert result.returncode == 3, result.stdout
    assert "t, worker 3 failed first (exit code 3)" in result.stdout
    assert "the cause" in result.stdout
    assert "peer 1 is lost" not in result.stdout and "peer 2 is lost" not in result.stdout
    assert world.count("create") == 1 and len(world.trained) == 4


def test_exit_code_69_is_not_the_cause_of_a_failure(world: World):
    """Check the coordinator, worker 0, which ends after its peers have exited with 69."""
    world.play(hosts=2)
    world.plan(
        a1={"0": {"lines": ["the cause"], "wait": exit_file(1), "code": 4}, "1": {"code": 69}}
    )
    result = world.launch()
    assert result.returncode == 4 and "worker 0 failed first (exit code 4)" in result.stdout


def test_workers_that_hang_after_a_failure_are_ended(world: World):
    world.play(hosts=2)
    world.plan(a1={"0": {"wait": "never"}, "1": {"lines": ["the cause"], "code": 1}})
    result = world.launch(FLAXAE_TPU_GRACE="2")
    assert result.returncode == 1 and "worker 1 failed first (exit code 1)" in result.stdout
    assert (world.home(0) / "exit").read_text().split()[:2] == ["1", "75"]


def test_any_exit_code_counts_as_preemption_if_the_tpu_was_preempted(world: World):
    """Check that the launcher waits, because a preemption is reported some polls later."""
    states = ["READY"] * 3 + ["PREEMPTED"]
    world.play(hosts=2, states=[states])
    world.plan(a1={"0": {"code": 134}, "1": {"code": 1}})
    result = world.launch()
    assert result.returncode == 0, result.stdout
    assert "workers ended, and t was PREEMPTED" in result.stdout
    assert world.count("create") == 2 and len(world.trained) == 4


def test_a_run_stopped_by_hand_is_not_restarted(world: World):
    world.plan(a1={"*": {"code": 130}})
    result = world.launch()
    assert result.returncode == 130 and "stopped by hand" in result.stdout
    assert len(world.trained) == 1
    assert world.launch().returncode == 0  # a new launch continues
    assert [t["attempt"] for t in world.trained] == ["1", "2"]


def test_stop_saves_and_ends_the_launcher(world: World):
    world.play(hosts=2)
    world.plan(a1={"*": {"wait": "never"}})
    launcher = world.start()
    wait_for(lambda: len(world.trained) == 2)
    wait_for(lambda: "starting attempt" in (world.path / "launcher.log").read_text())
    result = world.run("--stop")
    assert result.returncode == 0 and "asked 2 of 2 workers" in result.stdout
    assert launcher.wait(60) == 130
    assert [(world.home(i) / "exit").read_text().split()[1] for i in (0, 1)] == ["130", "130"]
    status = world.run("--status")
    assert "t worker 1: exited, exit code 130" in status.stdout and "t: READY (z)" in status.stdout


@pytest.mark.parametrize("step", (0, 2, 4, 5))
def test_an_interrupted_ssh_is_repeated(world: World, step: int):
    """Check each step, interrupted before and after it did its work."""
    world.play(hosts=2, ssh=["ok"] * step + ["flake", "half"])
    result = world.launch()
    assert result.returncode == 0, result.stdout + result.stderr
    assert world.count("create") == 1 and len(world.trained) == 2


def test_files_that_did_not_arrive_are_sent_again(world: World):
    """Check that an earlier launch's arguments are not used."""
    assert world.launch().returncode == 0
    world.play(**world.now() | {"ssh": ["ok", "ok", "lost"]})
    args = ["--config=other.py", "--workdir=gs://bucket/run"]
    result = world.launch(args=args)
    assert result.returncode == 0, result.stderr
    assert [t["args"] for t in world.trained] == [ARGS, args]


def test_training_restarts_the_count_of_retries(world: World):
    world.plan(**{f"a{i}": {"*": {"polls": 2, "code": 75}} for i in range(1, 4)})
    result = world.launch("--max-retries=1", FLAXAE_TPU_PROGRESS="1")
    assert result.returncode == 0 and len(world.trained) == 4
    assert result.stdout.count("retry 1 of 1") == 3


def test_train_py_can_save_when_a_vm_ends(world: World):
    """Check SIGHUP, which tmux sends to its processes when the VM ends."""
    world.plan(a1={"*": {"wait": "never"}})
    launcher = world.start()
    wait_for(lambda: world.trained)
    session = world.home().parents[1] / ".fake_tmux" / "flaxae-t"
    os.killpg(int(session.read_text()), signal.SIGHUP)
    session.unlink()
    os.kill(int((world.home() / "pid").read_text()), signal.SIGTERM)
    assert launcher.wait(60) == 0
    assert "has saved (exit code 75)" in (world.path / "launcher.log").read_text()
    assert len(world.trained) == 2


def test_workers_that_never_answer_end_only_the_launcher(world: World):
    world.plan(a1={"*": {"wait": "go"}})
    world.play(ssh=["ok"] * 5 + ["flake"] * 99)
    result = world.launch()
    assert result.returncode == 1 and "training may continue on it" in result.stderr
    assert world.count("create") == 1


def test_a_suspended_queued_resource_is_requested_again(world: World):
    world.play(queue=[["WAITING_FOR_RESOURCES", "PROVISIONING", "SUSPENDED"], ["FAILED"]])
    result = world.launch("--queued", "--spot")
    assert result.returncode == 0, result.stderr
    for state in ("WAITING_FOR_RESOURCES", "PROVISIONING", "SUSPENDED", "FAILED", "READY"):
        assert f"t: {state}" in result.stdout
    assert world.count("queued-resources", "create", "--node-id=t", "--spot") == 3
    assert world.count("queued-resources", "delete", "--force") == 2


def test_slices_restart_together(world: World):
    world.play(hosts=2)
    world.plan(a1={"t-1/0": preempted(4), "*": HANG})
    result = world.launch("--num-slices=2")
    assert result.returncode == 0, result.stderr
    assert world.count("queued-resources", "create", "--node-count=2", "--node-prefix=t") == 2
    assert sorted((t["node"], t["worker"], t["attempt"]) for t in world.trained) == sorted(
        (f"t-{i}", str(j), str(k)) for i in range(2) for j in range(2) for k in (1, 2)
    )


def test_a_failed_worker_of_a_slice_is_named_as_in_logs(world: World):
    world.play(hosts=2)
    world.plan(a1={"t-1/1": {"lines": ["the cause"], "code": 3}})
    result = world.launch("--num-slices=2", FLAXAE_TPU_GRACE="2")
    assert result.returncode == 3, result.stdout
    assert "t-1, worker 1 failed first (exit code 3)" in result.stdout
    assert "tpu/run.sh --name t --logs --worker 1:1 ---" in result.stdout


def test_rebooted_workers_start_again(world: World):
    world.plan(a1={"*": {"wait": "never"}})
    launcher = world.start()
    wait_for(lambda: world.trained)
    boot = world.home().parents[2] / "boot_id"
    boot.write_text("another\n")
    world.end()
    assert launcher.wait(60) == 0
    assert "workers were restarted" in (world.path / "launcher.log").read_text()
    assert world.count("create") == 1 and len(world.trained) == 2


def test_a_killed_worker_is_a_failure(world: World):
    world.plan(a1={"*": {"wait": "never", "lines": ["begun"]}})
    launcher = world.start()
    wait_for(lambda: "begun" in (world.path / "launcher.log").read_text())
    world.end()
    assert launcher.wait(60) == 1
    assert "no exit code: it was killed" in (world.path / "launcher.log").read_text()
