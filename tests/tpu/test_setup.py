"""tpu/setup.sh installs what is missing; tested with a fake apt and a fake Python."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYTHON = """#!/bin/sh
echo "python $*" >>"$CALLS"
case "$*" in
  *"-m venv"*) mkdir -p "$4/bin"; cp "$0" "$4/bin/python" ;;
  *"-m pip install"*) [ ! -f "$CALLS.offline" ] ;;
  *"-m uv python install"*)
    bin="$UV_PYTHON_INSTALL_DIR/cpython-3.11.9-x/bin"
    mkdir -p "$bin" && cp "$0" "$bin/python3.11" ;;
  "-VV") echo "Python 3.11.9" ;;
  *"import ensurepip"*) case "$0" in */python3) exit 1 ;; esac ;;
esac
"""
# Installs python3.11 from SOURCE: deadsnakes, distribution or none.
SUDO = """#!/bin/sh
echo "sudo $*" >>"$CALLS"
case "$*" in
  *add-apt-repository*) [ "$SOURCE" = deadsnakes ] ;;
  *python3.11*) [ "$SOURCE" != none ] && cp "$BIN/python3" "$BIN/python3.11" ;;
esac
"""


class Machine:
    """A fake TPU VM with Python 3.10 in the folder `path`."""

    def __init__(self, path: Path):
        self.path, self.base = path, path / "flaxae-tpu" / "t"
        self.bin = path / "bin"
        (self.base / "code").mkdir(parents=True)
        self.bin.mkdir()
        for name in ("pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, self.base / "code")
        self.program("python3", PYTHON)
        self.program("sudo", SUDO)
        self.program("tmux", "#!/bin/sh\n")
        # The only programs of this machine that the script may use.
        for name in ("bash", "sh", "mkdir", "cp", "cat", "flock", "dirname", "rm", "sha256sum"):
            os.symlink(str(shutil.which(name)), self.bin / name)

    def program(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def setup(self, source: str = "deadsnakes", **env: str):
        """Run the script; return the result and the calls of this run."""
        calls = self.path / "calls"
        calls.write_text("")
        env |= {"PATH": str(self.bin), "HOME": str(self.path), "CALLS": str(calls)}
        env |= {"BIN": str(self.bin)}
        command = [str(shutil.which("bash")), str(ROOT / "tpu" / "setup.sh"), str(self.base)]
        env |= {"SOURCE": source}
        result = subprocess.run(command, env=env, capture_output=True, text=True)
        return result, calls.read_text().splitlines()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    if not shutil.which("flock"):
        pytest.skip("needs flock, which TPU VMs have")
    return Machine(tmp_path)


@pytest.mark.parametrize("source", ["deadsnakes", "distribution", "none"])
def test_python_is_installed_from_any_source(machine: Machine, source: str):
    result, calls = machine.setup(source)
    assert result.returncode == 0, result.stdout + result.stderr
    pip = [call for call in calls if "-m pip install" in call and "constraints" in call]
    assert len(pip) == 1 and pip[0].endswith("-c constraints.txt .[tpu]")
    assert (machine.base / "python").read_text().strip().endswith("flaxae-tpu/venv/bin/python")
    assert any("-m uv python install 3.11" in call for call in calls) == (source == "none")


def test_a_second_run_installs_only_after_a_change(machine: Machine):
    assert machine.setup()[0].returncode == 0
    result, calls = machine.setup()
    assert result.returncode == 0
    assert not [call for call in calls if "sudo" in call or "install" in call]
    with open(machine.base / "code" / "constraints.txt", "a") as file:
        file.write("new==1\n")
    _, calls = machine.setup()
    assert sum("-m pip install" in call for call in calls) == 1
    assert not [call for call in calls if "venv" in call and "--clear" in call]


def test_a_failed_installation_is_repeated(machine: Machine):
    (machine.path / "calls.offline").touch()
    assert machine.setup()[0].returncode != 0
    (machine.path / "calls.offline").unlink()
    result, calls = machine.setup()
    assert result.returncode == 0 and sum("-m pip install" in call for call in calls) == 1


def test_tmux_is_installed_if_it_is_missing(machine: Machine):
    (machine.bin / "tmux").unlink()
    _, calls = machine.setup()
    assert any(call.startswith("sudo") and call.endswith(" tmux") for call in calls)


def test_a_given_python_is_used_unchanged(machine: Machine):
    result, calls = machine.setup(FLAXAE_PYTHON="/some/python")
    assert result.returncode == 0 and calls == []
    assert (machine.base / "python").read_text() == "/some/python\n"
