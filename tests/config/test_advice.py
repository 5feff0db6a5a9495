"""Options, fields and commands that messages advise exist, under these names."""

import ast
import functools
import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

import flaxae
from flaxae import evaluate, explore, summary
from flaxae.config import Config, flags, iterate_fields
from flaxae.explore.__main__ import parser as explore_parser
from flaxae.models.t5_vae import demo
from tests.config.families import task_configs
from tests.helpers import ROOT

SECTIONS = "optim|data|task|eval|save|log|mesh"
NOT_FIELDS = {"a.b", "task.make", "task.class"}


@functools.cache
def strings() -> list[tuple[str, str]]:
    """Return the place and the text of all strings of the library, without docstrings."""
    files = [ROOT / "train.py", *sorted(Path(flaxae.__path__[0]).rglob("*.py"))]
    return [
        (f"{path.relative_to(ROOT)}:{line}", text) for path in files for line, text in _parse(path)
    ]


def _parse(path: Path) -> Iterator[tuple[int, str]]:
    tree = ast.parse(path.read_text())
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.lineno, node.value


def test_fields_that_messages_name_exist():
    known = {name for task in task_configs() for name, _, _ in iterate_fields(Config(task=task()))}
    known |= {name.rpartition(".")[0] for name in known}  # sections
    flag = re.compile(r"--config\.([a-z][a-z0-9_]*(?:\.[a-z][a-z0-9_]*)*)")
    field = re.compile(rf"(?<![\w./-])((?:{SECTIONS})(?:\.[a-z][a-z0-9_]*)+)(?=[=\s,:;)]|$)")
    found, unknown = set(), []
    for place, text in strings():
        names = set(flag.findall(text)) | set(field.findall(text))
        found |= names
        for name in names - known - NOT_FIELDS:
            if not any(one.startswith(name) for one in known if name.endswith("_")):
                unknown.append(f"{place}: {name}")
    assert not unknown, "\n".join(unknown)
    assert len(found & known) > 30


def test_commands_that_messages_name_exist():
    missing = []
    for place, text in strings():
        for name in re.findall(r"python -m ((?:flaxae|configs)[\w.]*\w)", text):
            found = importlib.util.find_spec(name)
            package = found is not None and found.submodule_search_locations
            if found is None or (package and not importlib.util.find_spec(f"{name}.__main__")):
                missing.append(f"{place}: {name}")
    assert not missing, "\n".join(missing)


def test_the_next_commands_of_the_demo_are_well_formed(tmp_path, capsys):
    """Each is parsed by its own command, also for a workdir with a space."""
    workdir = tmp_path / "my run"
    text = demo.next_commands(f"{demo.CONFIG}:quick", workdir, "python")
    lines = [line.strip() for line in text.splitlines() if line.startswith("  ")]
    seen = set()
    for line in lines:
        python, *words = shlex.split(line, comments=True)
        assert python == "python"
        if words[0] == "train.py" and "--help" in words:
            with pytest.raises(SystemExit) as e:
                flags.parse(words)
            assert e.value.code == 0
        elif words[0] == "train.py":
            assert flags.parse(words).config.data.path == "my.txt"  # pyright: ignore
        elif words[1] == "flaxae.summary":
            flags.parse(words[1:], summary.OPTIONS, workdir=False)
        elif words[1] == "flaxae.explore":
            assert explore_parser().parse_args(words[2:]).source == str(workdir)
        else:
            assert words[1:] == ["flaxae.evaluate", str(workdir)]
        seen.add(words[0] if words[0] != "-m" else words[1])
    assert seen == {"train.py", "flaxae.summary", "flaxae.explore", "flaxae.evaluate"}
    assert evaluate.main and explore and capsys.readouterr().out


def test_commands_in_the_docstrings_of_configs_parse():
    parsed = 0
    for path in sorted((ROOT / "configs").glob("*/*.py")):
        doc = ast.get_docstring(ast.parse(path.read_text())) or ""
        for line in re.sub(r"\\\n\s*", " ", doc).splitlines():
            words = shlex.split(line, comments=True) if line.startswith("    python") else []
            if words[1:2] == ["train.py"]:
                flags.parse(words[1:])
                parsed += 1
    assert parsed > 10
