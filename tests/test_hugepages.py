"""A command that trains starts itself again once, with glibc's allocator set up."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from flaxae import hugepages

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only glibc's allocator is set up"
)

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = """
import json, os, resource, sys
from flaxae.command import run_main

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        b"x" * 40_000_000
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 20

def main(argv):
    faults()  # the heap grows once
    print(json.dumps([argv, os.environ.get("GLIBC_TUNABLES"), faults()]))
    return 3

if __name__ == "__main__":
    print("starts", flush=True)
    sys.exit(run_main(main, huge_pages=True))
"""


def run(*command: str, **variables: str) -> tuple[int, list]:
    """Run a command; return how often it started, and what main saw."""
    inherited = {k: v for k, v in os.environ.items() if k != hugepages.VARIABLE}
    env = {**inherited, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), **variables}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 3, done.stderr
    *starts, last = done.stdout.splitlines()
    return len(starts), json.loads(last)


def test_a_training_command_starts_again_once_and_faults_fewer_pages(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    starts, (argv, variable, faults) = run(sys.executable, str(script), "--a=b c", "d")
    assert starts == 2 and argv == [str(script), "--a=b c", "d"]
    assert "glibc.malloc.hugetlb=1" in variable
    starts, (_, variable, without) = run(sys.executable, str(script), GLIBC_TUNABLES="")
    assert starts == 1 and variable == "", "a user's own setting stays"
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if setting.exists() and "[never]" not in setting.read_text():
        assert faults * 5 < without, "40 MB are 9,766 pages of 4 KiB"


def test_a_command_that_does_not_train_does_not_start_again(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.replace("huge_pages=True", "huge_pages=False"))
    starts, (_, variable, _) = run(sys.executable, str(script))
    assert starts == 1 and variable is None


def test_a_module_starts_again_too(tmp_path):
    (tmp_path / "as_module.py").write_text(SCRIPT)
    path = os.pathsep.join([str(ROOT), str(tmp_path)])
    starts, (argv, _, _) = run(sys.executable, "-m", "as_module", "x", PYTHONPATH=path)
    assert starts == 2 and argv[1:] == ["x"]


def test_a_script_that_other_code_runs_does_not_start_again(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    code = f"import runpy, sys; sys.argv = [{str(script)!r}]; "
    code += "runpy.run_path(sys.argv[0], run_name='__main__')"
    starts, (_, variable, _) = run(sys.executable, "-c", code)
    assert starts == 1 and variable is None, "a notebook runs a script like this"


def test_a_command_under_a_debugger_does_not_start_again(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import sys\nsys.settrace(lambda *_: None)\n" + SCRIPT)
    starts, (_, variable, _) = run(sys.executable, str(script))
    assert starts == 1 and variable is None


def test_huge_pages_are_wanted_on_a_cpu_if_the_variable_is_not_set(monkeypatch):
    monkeypatch.delenv(hugepages.VARIABLE, raising=False)
    monkeypatch.setenv("JAX_PLATFORMS", "")
    monkeypatch.setattr(hugepages, "ACCELERATORS", ())
    assert hugepages.wanted()
    monkeypatch.setattr(hugepages, "ACCELERATORS", ("nul[k-m]",))  # /dev/null is everywhere
    assert not hugepages.wanted()
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert hugepages.wanted()
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not hugepages.wanted()
    monkeypatch.undo()
    monkeypatch.setenv(hugepages.VARIABLE, "")
    assert not hugepages.wanted()
