"""The launcher tpu/run.sh when interrupted, started again, or started twice."""

import json
import os
import signal

from tests.tpu.world import World, wait_for


def test_a_killed_launcher_continues(world: World):
    world.play(hosts=2)
    world.plan(a1={"*": {"wait": "go", "lines": ["begun"]}})
    launcher = world.start()
    wait_for(lambda: "begun" in (world.path / "launcher.log").read_text())
    # The log is printed before its offset is saved; killed in between, it would print it again.
    wait_for(lambda: "OFFSET=0" not in (world.state / "t" / "state").read_text())
    launcher.send_signal(signal.SIGKILL)
    launcher.wait()
    launcher = world.start()
    wait_for(lambda: "is already running" in (world.path / "launcher.log").read_text())
    (world.fake / "go").touch()
    assert launcher.wait(60) == 0
    assert world.count("create") == 1 and len(world.trained) == 2
    assert (world.path / "launcher.log").read_text().count("begun") == 1


def test_a_run_that_ended_without_its_launcher_is_not_repeated(world: World):
    world.plan(a1={"*": {"wait": "go", "lines": ["begun"]}})
    launcher = world.start()
    wait_for(lambda: "begun" in (world.path / "launcher.log").read_text())
    launcher.send_signal(signal.SIGKILL)
    launcher.wait()
    (world.fake / "go").touch()
    wait_for(lambda: (world.home() / "exit").exists())
    assert world.launch().returncode == 0
    assert len(world.trained) == 1


def test_a_launcher_killed_during_creation_creates_no_second_tpu(world: World):
    world.play(states=[["CREATING"]])
    launcher = world.start()
    wait_for(lambda: "t: CREATING" in (world.path / "launcher.log").read_text())
    launcher.send_signal(signal.SIGKILL)
    launcher.wait()
    data = json.loads((world.fake / "world.json").read_text())
    data["nodes"]["t"]["states"] = ["CREATING", "READY"]
    (world.fake / "world.json").write_text(json.dumps(data))
    result = world.launch()
    assert result.returncode == 0, result.stderr
    assert world.count("create") == 1


def test_there_is_one_launcher_per_name(world: World):
    world.plan(a1={"*": {"wait": "go"}})
    launcher = world.start()
    wait_for(lambda: world.trained)
    for result in (world.launch(), world.run("--delete")):
        assert result.returncode == 2
        assert f"another launcher (process {launcher.pid}) works on t" in result.stderr
    (world.fake / "go").touch()
    assert launcher.wait(60) == 0 and len(world.trained) == 1
    assert not (world.state / "t" / "lock").exists()


def test_other_arguments_during_a_run_are_refused(world: World):
    world.plan(a1={"*": {"wait": "go", "lines": ["begun"]}})
    launcher = world.start()
    wait_for(lambda: "begun" in (world.path / "launcher.log").read_text())
    launcher.send_signal(signal.SIGKILL)
    launcher.wait()
    sent = world.count("scp")
    result = world.launch(args=["--config=d.py", "--workdir=gs://bucket/run"])
    assert result.returncode == 2
    assert "already trains other code or other arguments" in result.stderr
    assert "--stop" in result.stderr and len(world.trained) == 1
    (world.repo / "new.py").write_text("")
    world.commit()
    assert world.launch().returncode == 2 and len(world.trained) == 1  # the code has changed
    assert world.count("scp") == sent
    (world.fake / "go").touch()
    wait_for(lambda: (world.home() / "exit").exists())
    assert world.launch().returncode == 0  # the run has ended
    assert [t["attempt"] for t in world.trained] == ["1", "2"]


def test_another_tpu_under_the_same_name_is_refused(world: World):
    assert world.launch().returncode == 0
    for options in (["--spot"], ["--zone", "y"], ["--type", "v5litepod-16"]):
        result = world.launch(*options)
        assert result.returncode == 2 and "t was launched with" in result.stderr, options
    (world.state / "t" / "state").unlink()
    result = world.launch("--type", "v5litepod-16")
    assert result.returncode == 2 and "t is a v5litepod-8, not a v5litepod-16" in result.stderr
    assert world.run("--delete", "--zone", "z").returncode == 0 and world.count("delete") == 1


def test_ctrl_c_leaves_the_run_active(world: World):
    world.plan(a1={"*": {"wait": "go", "lines": ["begun"]}})
    launcher = world.start()
    wait_for(lambda: "begun" in (world.path / "launcher.log").read_text())
    os.killpg(launcher.pid, signal.SIGINT)
    assert launcher.wait(60) == 130
    assert "the run on t continues" in (world.path / "launcher.log").read_text()
    assert not (world.home() / "exit").exists() and not (world.state / "t" / "lock").exists()
