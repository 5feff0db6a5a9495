"""A checkout, a launcher and a fake Cloud TPU in one folder, for tests."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
# The launcher's shell; the variable allows testing an old bash.
BASH = os.environ.get("FLAXAE_TEST_BASH", "bash")
GIT = "git -c user.name=test -c user.email=test@localhost -c init.defaultBranch=x".split()


class World:
    """The folder `path`: repo (a checkout with tpu/), fake (the TPUs), bin (gcloud), state."""

    def __init__(self, path: Path, files: dict[str, Path] | None = None, tmux: bool = True):
        self.path, self.repo, self.fake = path, path / "repo", path / "fake"
        self.state = path / "state"
        self.sockets: list[str] = []
        (path / "bin").mkdir()
        self.fake.mkdir()
        shutil.copytree(ROOT / "tpu", self.repo / "tpu")
        for name, source in (files or {"train.py": HERE / "fake_train.py"}).items():
            (self.repo / name).parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(source, self.repo / name, ignore=ignored)
            else:
                shutil.copy(source, self.repo / name)
        self.git("init", "-q")
        self.commit()
        script = f'#!/bin/sh\nexec "{sys.executable}" -IS "{HERE}/fake_gcloud.py" "$@"\n'
        self._program("gcloud", script)
        if tmux:
            self._program("tmux", (HERE / "fake_tmux.sh").read_text())
        self.plan()
        self.play()

    def _program(self, name: str, text: str) -> None:
        (self.path / "bin" / name).write_text(text)
        (self.path / "bin" / name).chmod(0o755)

    def git(self, *arguments: str) -> None:
        subprocess.run([*GIT, *arguments], cwd=self.repo, check=True, capture_output=True)

    def commit(self) -> None:
        self.git("add", "-A")
        self.git("commit", "-q", "-m", "x", "--allow-empty")

    def plan(self, **attempts: Any) -> None:
        """Set what fake_train.py does; keys a1, a2, ... are attempts."""
        plan = {name.removeprefix("a"): todo for name, todo in attempts.items()}
        (self.fake / "plan.json").write_text(json.dumps(plan))

    def play(self, **world: Any) -> None:
        """Set the script of fake_gcloud.py."""
        env = {"PATH": self.search, "FLAXAE_PYTHON": sys.executable, "FLAXAE_KILL_WAIT": "20"}
        env |= {"FAKE_GCLOUD": str(self.fake), "FAKE_SCRIPT": str(HERE / "fake_gcloud.py")}
        world["env"] = env | world.get("env", {})
        (self.fake / "world.json").write_text(json.dumps(world))

    def now(self) -> dict[str, Any]:
        """Return the current script of fake_gcloud.py, to change it and play it again."""
        return json.loads((self.fake / "world.json").read_text())

    @property
    def search(self) -> str:
        return f"{self.path / 'bin'}:{os.environ['PATH']}"

    def command(self, *options: str, args: list[str] | None = None) -> list[str]:
        command = [BASH, str(self.repo / "tpu" / "run.sh"), "--name", "t", *options]
        return command if args is None else [*command, "--", *args]

    @property
    def environment(self) -> dict[str, str]:
        env = {k: v for k, v in os.environ.items() if not k.startswith("FLAXAE_")}
        env |= {"FAKE_GCLOUD": str(self.fake), "PATH": self.search}
        env |= {"FLAXAE_TPU_STATE": str(self.state), "FLAXAE_TPU_TIME_UNIT": "0.0005"}
        return env | {"FLAXAE_TPU_SSH_TRIES": "4", "FLAXAE_TPU_SETTLE": "4"}

    def run(self, *options: str, args: list[str] | None = None, **env: str):
        """Run run.sh."""
        return subprocess.run(
            self.command(*options, args=args),
            env=self.environment | env,
            text=True,
            capture_output=True,
            timeout=120,
            stdin=subprocess.DEVNULL,
        )

    def launch(self, *options: str, args: list[str] | None = None, **env: str):
        """Launch a v5litepod-8 with arguments of train.py."""
        return self.run(*LAUNCH, *options, args=args or ARGS, **env)

    def start(self, *options: str, args: list[str] | None = None, **env: str) -> subprocess.Popen:
        """Launch in the background; the output is written to `launcher.log`."""
        with open(self.path / "launcher.log", "a") as log:
            return subprocess.Popen(
                self.command(*LAUNCH, *options, args=args or ARGS),
                env=self.environment | env,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                # Tests may run in the background of a shell, which makes them ignore SIGINT.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )

    @property
    def calls(self) -> list[list[str]]:
        return self._lines("calls.jsonl")

    def count(self, *words: str) -> int:
        """Return the number of calls of gcloud with these words."""
        return sum(set(words) <= set(call) for call in self.calls)

    @property
    def trained(self) -> list[dict[str, Any]]:
        """All starts of train.py."""
        return self._lines("trained.jsonl")

    def _lines(self, name: str) -> list[Any]:
        path = self.fake / name
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def home(self, worker: int = 0, incarnation: int = 1, node: str = "t") -> Path:
        """Return the folder of a worker's run."""
        return self.fake / "nodes" / f"{node}.{incarnation}" / f"w{worker}" / "flaxae-tpu" / "t"

    def preempt(self, node: str = "t") -> None:
        script = [sys.executable, "-IS", str(HERE / "fake_gcloud.py"), "preempt", node]
        subprocess.run(script, check=True, env=os.environ | {"FAKE_GCLOUD": str(self.fake)})

    def end(self) -> None:
        """Kill the workers' processes that this world has started."""
        for file in self.fake.glob("nodes/*/*/.fake_tmux/*"):
            with contextlib.suppress(ProcessLookupError, PermissionError, ValueError):
                os.killpg(int(file.read_text()), signal.SIGKILL)
            file.unlink(missing_ok=True)


LAUNCH = ["--type", "v5litepod-8", "--zone", "z"]
ARGS = ["--config=c.py", "--workdir=gs://bucket/run"]


def wait_for(condition: Any, seconds: float = 60, what: str = "") -> None:
    """Wait until the condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s for {what or condition}"
        time.sleep(0.02)
