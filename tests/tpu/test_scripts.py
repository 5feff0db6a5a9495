"""The scripts pass shellcheck and use no features that bash 3.2 (macOS) lacks."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted((ROOT / "tpu").rglob("*.sh"))
NEWER = {
    "associative arrays": r"(declare|local|typeset) -[a-zA-Z]*A",
    "mapfile": r"\b(mapfile|readarray|coproc)\b",
    "case of letters": r"\$\{\w+(\[[^]]*\])?(,,?|\^\^?)",
    "redirections": r"&>>|\|&",
    "case fall-through": r";;?&",
    "name references": r"(declare|local|typeset) -[a-zA-Z]*n\b",
    "variables": r"\$\{?(BASHPID|EPOCHSECONDS|EPOCHREALTIME)\b",
    "negative indices": r"\[-\d+\]",
    "wait -n": r"\bwait -n\b",
    "@ operators": r"\$\{\w+@[QEPAaUuL]\}",
    "a pattern in place": r"=~ [^$]",
    "date formats of printf": r"printf [^\n]*%\(",
}


def code_of(script: Path) -> str:
    """Return a script without comments."""
    lines = script.read_text().splitlines()
    return "\n".join(re.sub(r"(^|\s)#.*", "", line) for line in lines)


def test_the_expected_scripts_exist():
    assert {"run.sh", "setup.sh", "worker.sh", "state.sh", "tpu.sh", "train.sh"} <= {
        script.name for script in SCRIPTS
    }


def test_scripts_pass_shellcheck():
    command = [Path(sys.executable).parent / "shellcheck", "-x", *SCRIPTS]
    command.append(ROOT / "tests" / "tpu" / "fake_tmux.sh")
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_scripts_use_the_syntax_of_bash_3(script: Path):
    result = subprocess.run(["bash", "-n", script], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    found = {what: m[0] for what, p in NEWER.items() if (m := re.search(p, code_of(script)))}
    assert not found


def test_the_patterns_match_newer_features():
    samples = [
        "declare -A x",
        "mapfile -t x <f",
        "${x,,}",
        "a &>>b",
        "x;;&",
        "local -n x",
        "$BASHPID",
        "${a[-1]}",
        "wait -n",
        "${x@Q}",
        "[[ a =~ ^(b) ]]",
        "printf '%(%s)T'",
    ]
    for sample, (what, pattern) in zip(samples, NEWER.items(), strict=True):
        assert re.search(pattern, sample), what
