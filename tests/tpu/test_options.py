"""Options of tpu/run.sh: what it sends, prints and refuses."""

import stat
import subprocess

import pytest

from tests.tpu.world import ARGS, LAUNCH, World

ODD = [
    "--config=a b.py",
    "--workdir=gs://bucket/run 1",
    "--config.x=it's",
    '--config.y="$HOME" `id`',
    "--config.z=\\n*;&|<>",
    "",
    "ünïcode\nin two lines",
]


def test_arguments_arrive_unchanged(world: World):
    result = world.launch(args=ODD)
    assert result.returncode == 0, result.stderr
    assert world.trained[0]["args"] == ODD


def test_a_dry_run_prints_all_commands_and_runs_none(world: World, tmp_path):
    (tmp_path / "secrets").write_text("TOKEN=hidden-token\n")
    options = ["--dry-run", "--spot", "--project=p", f"--env-file={tmp_path / 'secrets'}"]
    result = world.launch(*options, args=ODD)
    assert result.returncode == 0, result.stderr
    assert world.calls == [] and world.trained == [] and not world.state.exists()
    printed = [line for line in result.stdout.splitlines() if line.startswith("+ ")]
    for words in (
        "gcloud storage ls gs://bucket",
        "tpu-vm describe t",
        "tpu-vm create t",
        "--spot",
        "git -C",
        "tpu-vm scp",
        "worker.sh\\ setup",
        "worker.sh\\ start",
        "worker.sh\\ log",
        "worker.sh\\ status",
        "tpu-vm delete t",
        "python train.py",
    ):
        assert any(words in line for line in printed), words
    assert all("--project=p" in line for line in printed if "compute tpus" in line)
    assert "hidden-token" not in result.stdout + result.stderr
    # A shell reads the printed command as the same words.
    command = next(line for line in result.stdout.split("\n+ ") if "python train.py" in line)
    command = command.split("python train.py ")[1].split("\n# every")[0]
    words = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {command}"], capture_output=True, text=True, check=True
    )
    assert words.stdout.split("\0")[:-1] == ODD


def test_a_dry_run_announces_all_commands_of_a_launch(world: World):
    """Check that the dry run announces each kind of command of a launch."""

    def kinds(calls):
        for call in calls:
            words = [word for word in call if not word.startswith("--")][:4]
            command = next((w for w in call if w.startswith("--command=")), "")
            verbs = ("status", "setup", "start", "log", "mkdir")
            yield *words, *[verb for verb in verbs if f" {verb} " in f"{command} "][:1]

    printed = world.launch("--dry-run").stdout.splitlines()
    lines = [line[2:] for line in printed if line.startswith("+ gcloud")]
    split = 'for line in "$@"; do eval "set -- $line"; printf "%s\\0" "$@"; printf "\\n\\0"; done'
    words = subprocess.run(["bash", "-c", split, "bash", *lines], capture_output=True, text=True)
    announced = [x.strip("\0").split("\0")[1:] for x in words.stdout.split("\n\0")[:-1]]
    assert world.launch("--delete-when-done").returncode == 0
    assert set(kinds(world.calls)) <= set(kinds(announced))


def test_a_dry_run_of_several_slices(world: World):
    result = world.launch("--dry-run", "--num-slices=3", args=[*ARGS, "--config.mesh.replica=3"])
    assert result.returncode == 0, result.stderr
    assert "--node-count=3" in result.stdout and "--node-prefix=t" in result.stdout
    for i in range(3):
        assert "tpu-vm scp" in result.stdout and f" t-{i}:flaxae-tpu/t/" in result.stdout
        assert f"tpu-vm ssh t-{i} " in result.stdout
    assert "--config.mesh.replica=3" in result.stdout and result.stderr == ""
    assert "no --config.mesh.replica=3" in world.launch("--dry-run", "--num-slices=3").stderr


def test_a_secret_reaches_only_train_py(world: World, tmp_path):
    secret = 's3cret $HOME "quoted" `id`'
    (tmp_path / "secrets").write_text(f"# a comment\nexport OTHER='x y'\nTOKEN={secret}\n")
    world.plan(a1={"*": {"code": 75}})
    result = world.launch("--env-file", str(tmp_path / "secrets"))
    assert result.returncode == 0, result.stderr
    assert [t["token"] for t in world.trained] == [secret] * 2
    sent = world.home() / "env"
    assert stat.S_IMODE(sent.stat().st_mode) == 0o600
    assert stat.S_IMODE(sent.parent.stat().st_mode) == 0o700
    files = [p for p in (*world.state.rglob("*"), *world.home().rglob("*")) if p.is_file()]
    texts = {str(p): p.read_bytes().decode(errors="replace") for p in files if p != sent}
    texts |= {"output": result.stdout + result.stderr}
    texts |= {"calls": (world.fake / "calls.jsonl").read_text()}
    assert [name for name, text in texts.items() if "s3cret" in text] == []
    # A launch without an env file deletes it.
    assert world.launch().returncode == 0
    assert world.trained[-1]["token"] is None and not sent.exists()


def test_an_env_file_is_checked_without_being_printed(world: World, tmp_path):
    (tmp_path / "secrets").write_text("TOKEN=a\n\nmy-secret-alone\n")
    result = world.launch("--env-file", str(tmp_path / "secrets"))
    assert result.returncode == 2 and "line 3: must be NAME=VALUE" in result.stderr
    assert "my-secret" not in result.stderr and world.calls == []


def test_uncommitted_changes_need_dirty(world: World):
    (world.repo / "extra.py").write_text("")
    (world.repo / "train.py").write_text('print("changed")\n')
    result = world.launch()
    assert result.returncode == 2 and "commit them, or send them with --dirty" in result.stderr
    assert "extra.py" in result.stderr and world.calls == []
    staged = subprocess.run(["git", "diff", "--cached"], cwd=world.repo, capture_output=True)
    result = world.launch("--dirty")
    assert result.returncode == 0 and "changed" in result.stdout
    assert " M train.py" in result.stdout and "?? extra.py" in result.stdout
    assert (world.home() / "code" / "extra.py").exists()
    after = subprocess.run(["git", "diff", "--cached"], cwd=world.repo, capture_output=True)
    assert after.stdout == staged.stdout == b""  # the user's index is unchanged


def test_only_committed_files_are_sent(world: World):
    (world.repo / ".gitignore").write_text("data/\n")
    world.commit()
    (world.repo / "data").mkdir()
    (world.repo / "data" / "big").write_text("")
    assert world.launch().returncode == 0
    assert not (world.home() / "code" / "data").exists()
    assert (world.home() / "code" / "train.py").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--name", "T_1"], "--name must be"),
        (["--num-slices", "0"], "--num-slices must be"),
        (["--port", "80"], "--port must be 1024 to 65535"),
        (["--port"], "--port needs a value"),
        (["--color"], "unknown option --color"),
        (["--env-file", "/nowhere"], "--env-file /nowhere cannot be read"),
    ],
)
def test_mistakes_are_reported_in_one_line(world: World, options: list[str], message: str):
    args = None if options == ["--port"] else ARGS
    result = world.run(*LAUNCH, *options, args=args)
    assert result.returncode == 2 and message in result.stderr and world.calls == []
    assert len(result.stderr.splitlines()) == 1


def test_the_workdir_is_checked(world: World):
    result = world.launch(args=["--config=c.py"])
    assert result.returncode == 2 and "train.py needs a --workdir" in result.stderr
    result = world.launch(args=["--config=c.py", "--workdir", "gs://nowhere/run"])
    assert result.returncode == 2 and "there is no bucket gs://nowhere" in result.stderr
    assert world.count("create") == 0
    result = world.launch(args=["--config=c.py", "--workdir=/mnt/x"])
    assert result.returncode == 0 and "a preemption loses it" in result.stderr


def test_data_is_copied_to_each_worker(world: World):
    (world.fake / "bucket" / "shards").mkdir(parents=True)
    (world.fake / "bucket" / "shards" / "a").write_text("content")
    world.play(hosts=2)
    result = world.launch("--data=gs://bucket/shards")
    assert result.returncode == 0, result.stderr
    for i in range(2):
        assert (world.home(i) / "code" / ".." / "data" / "a").read_text() == "content"
    for data in ("/here", "gs://bucket/$(id)"):
        assert world.launch(f"--data={data}").returncode == 2
    assert "no bucket gs://nowhere" in world.launch("--data=gs://nowhere/x").stderr


def test_a_failed_setup_is_reported(world: World):
    world.play(hosts=2)
    result = world.launch("--data=gs://bucket/missing")
    assert result.returncode == 1 and "setup failed on t worker 0; t worker 1" in result.stderr
    assert "t worker 1| " in result.stderr and "missing" in result.stderr
    assert world.trained == [] and "costs" in result.stderr


def test_help_and_actions_on_unknown_names(world: World):
    result = world.run("--help")
    assert result.returncode == 0 and "--delete-when-done" in result.stdout
    for action in ("--status", "--stop", "--logs", "--attach", "--delete"):
        assert action in result.stdout
        unknown = world.run(action)
        assert unknown.returncode == 2 and "give its --zone" in unknown.stderr


def test_logs_and_attach_choose_a_worker(world: World):
    world.play(hosts=2)
    assert world.launch("--num-slices=2").returncode == 0
    result = world.run("--logs", "--worker=1:1", "--dry-run")
    assert "ssh t-1 --worker=1" in result.stdout and "worker.sh\\ follow" in result.stdout
    result = world.run("--attach", "--dry-run")
    assert "ssh t-0 --worker=0" in result.stdout and result.stdout.rstrip().endswith("-- -t")
