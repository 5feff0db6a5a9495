"""Tests of command lines: overrides, errors and --help."""

import subprocess
import sys
from pathlib import Path

import pytest

from flaxae.command import run_main
from flaxae.config import Optimizer, flags, get_field, to_json
from flaxae.config.ranges import Range
from flaxae.data.config import TextDataConfig
from flaxae.errors import ConfigError
from tests.helpers import ROOT, environment

CONFIG = """
from flaxae.config import Config
from tests.tiny.family import TinyConfig

def get_config(variant="plain"):
    if variant == "broken":
        raise ValueError("no such variant")
    if variant == "unreadable":
        open("/nowhere/at/all")
    if variant == "":
        raise ValueError("an empty variant")
    if variant == "nothing":
        return None
    return Config(task=TinyConfig(), steps=20 if variant == "short" else 100)
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "experiment.py"
    path.write_text(CONFIG)
    return str(path)


def test_option_names_may_contain_dashes(file):
    options = (flags.Option("find_batch", False, ""),)
    argv = ["x", f"--config={file}", "--find-batch"]
    assert flags.parse(argv, options, workdir=False).extra["find_batch"] is True


def parse(file: str, *overrides: str) -> flags.Parsed:
    return flags.parse(["train.py", f"--config={file}", "--workdir=w", *overrides])


def test_overrides_of_every_type(file):
    config, workdir, extra = parse(
        file,
        "--config.optim.lr=1",
        "--config.optim.name=lion",
        "--config.steps",
        "40",
        "--config.task.penalty=0.5",
        "--config.task.dropout=false",
        "--noconfig.log.progress",
        "--config.log.tensorboard",
        "--config.profile=(10, 13)",
        "--config.eval.splits=dev,test",
        "--config.resume_from=my=run",
        "--config.optim.groups=(('a', 1, 0),)",
    )
    assert (config.optim.lr, config.optim.name, config.steps) == (1.0, Optimizer.LION, 40)
    task = config.task
    assert (task.penalty, task.dropout) == (0.5, False)  # pyright: ignore
    assert (config.log.progress, config.log.tensorboard) == (False, True)
    assert config.profile == (10, 13) and config.eval.splits == ("dev", "test")
    assert config.resume_from == "my=run" and config.optim.groups == (("a", 1, 0),)
    assert (workdir, extra) == ("w", {})


def test_variants_and_the_order_of_arguments(file):
    argv = ["train.py", "--config.steps=30", "--workdir", "w", "--config", f"{file}:short"]
    assert flags.parse(argv).config.steps == 30
    assert parse(f"{file}:short").config.steps == 20
    assert parse(file, "--config.steps=1", "--config.steps=2").config.steps == 2


@pytest.mark.parametrize(
    "field, text, value",
    [
        ("eval.splits", "dev", ("dev",)),
        ("profile", "5", (5,)),
        ("profile", "[1, 2]", (1, 2)),
        ("eval.splits", "", ()),
    ],
)
def test_tuples_are_parsed(file, field, text, value):
    config = flags.load_config(file)
    flags.override(config, field, text)
    assert get_field(config, field) == value


@pytest.mark.parametrize(
    "argument, message",
    [
        ("--config.optim.lrr=1", "no field 'optim.lrr'; did you mean optim.lr"),
        ("--config.lr=1", "no field 'lr'; did you mean optim.lr"),
        ("--config.zzz=1", "no field 'zzz'; --help lists"),
        ("--config.data.path=x", "no field 'data.path'; did you mean data.cache"),
        ("--config.data.batch_sise=1", "no field 'data.batch_sise'; did you mean data.batch_size"),
        ("--config.optim.lr=fast", "--config.optim.lr='fast' is not of type float"),
        ("--config.steps=1e3", "--config.steps='1e3' is not of type int"),
        ("--config.log.progress=maybe", "not of type bool"),
        ("--config.optim.name=adam", "'adam' is not one of: adamw"),
        ("--config.profile=(1, x)", "is not a tuple"),
        ("--config.profile={[]: 1}", "is not a tuple"),  # a TypeError of ast.literal_eval
        ("--config.profile=" + 999 * "(", "is not a tuple"),  # a MemoryError
        ("--config.profile={1, 2}", "is a set, not a int"),
        ("--config.optim.groups={1, 2}", "is not (path regex"),
        ("--config.optim=1", "is a section; set one of its fields: optim.name"),
        ("--config.steps", "needs a value of type int"),
        ("--config.steps=-1", "steps=-1 must be positive"),
        ("--noconfig.log.progress=1", "takes no value"),
        ("--wrkdir=x", "unknown option --wrkdir; did you mean --workdir"),
        ("--steps=1", "unknown option --steps; did you mean --config.steps"),
        ("--penalty=1", "unknown option --penalty; did you mean --config.task.penalty"),
        ("--config.optim.learning_rate=1", "its section has: optim.name, optim.lr, optim.sched"),
        ("stray", "unexpected argument 'stray'"),
    ],
)
def test_mistakes_are_named(file, argument, message):
    with pytest.raises(ConfigError) as e:
        parse(file, argument)
    assert message in str(e.value)


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--workdir=w"], "--config is missing"),
        (["--config=FILE"], "--workdir is missing"),
        (["--config=none.py", "--workdir=w"], "there is no file none.py"),
        (["--config=FILE:broken", "--workdir=w"], "line 7: ValueError: no such variant"),
        (["--config=FILE:", "--workdir=w"], "ValueError: an empty variant"),
        (["--config=FILE:unreadable", "--workdir=w"], "FileNotFoundError"),
        (["--config=FILE:nothing", "--workdir=w"], "returned a NoneType, not a flaxae Config"),
    ],
)
def test_errors_of_config_files_are_one_message(file, argv, message):
    with pytest.raises(ConfigError) as e:
        flags.parse(["train.py", *(a.replace("FILE", file) for a in argv)])
    assert message in str(e.value) and "Traceback" not in str(e.value)


@pytest.mark.parametrize(
    "text, message",
    [
        ("def f(:", "line 1: "),
        ("x = 1", "has no get_config()"),
        ("import nix", "'nix'; .*PYTHONPATH=FOLDER"),
    ],
)
def test_broken_files_name_the_line(tmp_path, text, message):
    (tmp_path / "c.py").write_text(text)
    with pytest.raises(ConfigError, match=message.replace("(", r"\(").replace(")", r"\)")):
        flags.load_config(str(tmp_path / "c.py"))


CLASSES = """
from __future__ import annotations

import dataclasses

from flaxae.config import Config, TaskConfig
from flaxae.config.ranges import Count
from configs.t5_vae.baselines import STEPS

@dataclasses.dataclass
class OwnConfig(TaskConfig):
    width: Count = 8  # of the hidden layer

def get_config():
    return Config(task=OwnConfig(), steps=STEPS)
"""


def test_a_file_may_define_classes_and_import_its_neighbours(tmp_path, capsys):
    path = tmp_path / "own.py"
    path.write_text(CLASSES)
    assert parse(str(path), "--config.task.width=4").config.task.width == 4  # pyright: ignore
    config = parse(str(path)).config
    assert config.steps == 1000
    # Stored in config.json: with another name, older runs of such a class could not be resumed.
    assert to_json(config)["task"]["class"] == "config_config:OwnConfig"
    with pytest.raises(SystemExit):
        parse(str(path), "--help")
    assert "int from 1 = 8  # of the hidden layer" in capsys.readouterr().out


def test_a_class_keeps_its_types_when_another_file_is_loaded(tmp_path, file):
    path = tmp_path / "own.py"
    path.write_text(
        CLASSES.replace("import dataclasses", "import dataclasses, enum")
        .replace("@data", "class Color(enum.Enum):\n    RED = 'red'\n    BLUE = 'blue'\n\n@data")
        .replace("width: Count = 8", "color: Color = Color.RED")
    )
    config = flags.load_config(str(path))
    flags.load_config(file)
    flags.override(config, "task.color", "blue")
    assert to_json(config)["task"]["color"] == "blue"


def test_fields_of_text_data_are_set_as_before():
    file = str(ROOT / "configs/t5_vae/python_lines.py")
    config = parse(file, "--config.data.path=my=file.txt", "--config.data.tokenizer=t5").config
    data = config.data
    assert isinstance(data, TextDataConfig)
    assert (data.path, data.name, data.tokenizer) == ("my=file.txt", "python_lines", "t5")
    with pytest.raises(ConfigError, match="'data.tokeniser'; did you mean data.tokenizer"):
        parse(file, "--config.data.tokeniser=t5")


@pytest.mark.parametrize(
    "text, value",
    [("true", True), ("T", True), ("1", True), ("False", False), ("f", False), ("0", False)],
)
def test_booleans_are_parsed(file, text, value):
    assert parse(file, f"--config.log.progress={text}").config.log.progress is value


@pytest.mark.parametrize("text, value", [("0x10", 16), ("0o17", 15), ("-0X1f", -31), ("007", 7)])
def test_integers_are_parsed(text, value):
    assert flags.PARSERS[int](text) == value


def test_files_do_not_share_names(file, tmp_path):
    flags.load_config(file)
    (tmp_path / "empty.py").write_text("x = 1")
    with pytest.raises(ConfigError, match="has no get_config"):
        flags.load_config(str(tmp_path / "empty.py"))


def test_options_of_a_command_are_typed(file):
    options = [flags.Option("devices", 0, "how many"), flags.Option("fast", False, "quick")]
    argv = ["x", f"--config={file}", "--devices=8", "--fast"]
    parsed = flags.parse(argv, options, workdir=False)
    assert parsed.extra == {"devices": 8, "fast": True} and parsed.workdir == ""
    with pytest.raises(ConfigError, match="--devices='many' is not of type int"):
        flags.parse(["x", f"--config={file}", "--devices=many"], options, workdir=False)


def test_help_lists_every_field(file, capsys):
    with pytest.raises(SystemExit) as e:
        parse(file, "--help")
    assert e.value.code == 0
    text = capsys.readouterr().out
    assert "--config.optim.name" in text and "adamw|adafactor|sgd|lion|muon = 'adamw'" in text
    assert "--config.task.penalty" in text and "float = 0.1  # a loss weight that lanes" in text
    assert "--config.steps" in text and "int from 1 = 100" in text and "--workdir" in text


def test_help_shows_options_as_pages_write_them(file, capsys):
    options = [
        flags.Option("find_batch", False, "find the largest batch"),
        flags.Option("slices", 1, "how many", Range(1)),
    ]
    with pytest.raises(SystemExit):
        flags.parse(["x", f"--config={file}", "--help"], options, workdir=False)
    text = capsys.readouterr().out
    assert "how many (default: 1; from 1)" in text
    assert "--find-batch" in text and "FILE[:PRESET]" in text


def test_run_main_prints_one_message(capsys):
    def fails(argv: list[str]) -> int:
        raise ConfigError("the way out")

    assert run_main(fails, []) == 2
    assert capsys.readouterr().err == "error: the way out\n"
    assert run_main(lambda argv: None, []) == 0
    with pytest.raises(ZeroDivisionError):
        run_main(lambda argv: 1 // 0, [])


def test_train_help_and_mistake_in_a_process(file):
    command = [sys.executable, "train.py", f"--config={file}", "--workdir=w", "--config.stepz=1"]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: the config has no field 'stepz'; did you mean steps")
