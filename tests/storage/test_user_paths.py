"""Paths as users write them: home folders, and names that a library reads as a pattern or a URL."""

import itertools
import json
import os
import pwd
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flaxae import evaluate
from flaxae.config import Config, DataConfig, SaveConfig, from_json, to_json
from flaxae.config.locate import locate, split_preset
from flaxae.data.local import load_files
from flaxae.errors import ConfigError
from flaxae.explore.server import read_password
from flaxae.models.looped import tables
from flaxae.storage import paths
from flaxae.storage.checkpoint import Checkpointer, read_arrays
from flaxae.training.loop import run
from flaxae.weights import hf
from tests.tiny.family import tiny_config

REFUSED = ["[1]", "a]b", "a*", "b?", "back\\slash", "\udcff", "gs:", "logs:"]
COUNT = itertools.count()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a home folder; the current folder is another one."""
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "home"


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("path", ["{}", "{}/run", "{}/a/run"])
def test_a_workdir_that_orbax_reads_as_a_pattern_is_refused_before_training(
    name: str, path: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="checkpoints cannot be kept .*ln -s FOLDER LINK"):
        run(tiny_config(), tmp_path / path.format(name))
    assert not list(tmp_path.iterdir())


def test_the_folder_above_a_relative_workdir_counts_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "old [1]").mkdir()
    monkeypatch.chdir(tmp_path / "old [1]")
    with pytest.raises(ConfigError, match=r"in a folder with '\[' in its path"):
        run(tiny_config(), "run")
    (tmp_path / "link").symlink_to(tmp_path / "old [1]")  # the way out
    save(tmp_path / "link" / "run", 1)
    assert read_arrays(tmp_path / "link" / "run")[2] == 1


@pytest.mark.parametrize("root", ["gs", "s3", "az", "hf"])
def test_a_root_that_etils_takes_for_a_bucket_is_refused(root: str) -> None:
    with pytest.raises(ConfigError, match=f"/{root}, which the library .* {root}://"):
        run(tiny_config(), f"/{root}/run")
    assert not Path(f"/{root}").exists()


def test_a_moved_run_in_such_a_folder_is_one_message(tmp_path: Path) -> None:
    save(tmp_path / "run", 2)
    (tmp_path / "run").rename(tmp_path / "run [old]")
    with pytest.raises(ConfigError, match="rename that folder"):
        read_arrays(tmp_path / "run [old]")
    (tmp_path / "run [old]").rename(tmp_path / "run (old)")
    assert read_arrays(tmp_path / "run (old)")[2] == 2


def save(folder: Path, *steps: int) -> None:
    checkpointer = Checkpointer(folder, SaveConfig(keep=1))
    for step in steps:
        checkpointer.save(step, {"x": jnp.full((3,), step)}, {"at": step}, wait=True)
    checkpointer.close()


NAME = st.text(
    st.one_of(
        st.sampled_from("[]*?{}\\~$%#&=:;,.'\"!|<> \n\t-+@^`()"),
        st.characters(blacklist_characters="/\0"),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=8)
@given(NAME)
@example("{a,b}")
@example("gs:")
@example("x.orbax-checkpoint-tmp-5")
@example("~")
@example("12")
def test_a_folder_of_any_name_keeps_checkpoints_or_is_refused(
    tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    if name in (".", ".."):
        return
    folder = tmp_path_factory.getbasetemp() / f"names{next(COUNT)}" / name / "run"
    try:
        paths.as_workdir(folder)
    except ConfigError:
        assert not folder.exists()
        return
    save(folder, 1, 2)
    arrays, extra, step = read_arrays(folder)
    assert step == 2 and extra == {"at": 2} and arrays["x"].tolist() == [2, 2, 2]


@settings(max_examples=100)
@given(st.lists(st.text(st.sampled_from("[]*?\\#:./a~gs \t\n\x7f"), max_size=4), max_size=4))
def test_a_path_in_a_bucket_has_only_names_that_its_clients_agree_on(names: list[str]) -> None:
    text = "bucket/" + "/".join(names) + "/run"
    pieces = text.split("/")
    bad = any(c in text for c in ("[", "]", "*", "?", "\\", "#", "::", "\t", "\n", "\x7f"))
    bad = bad or any(piece in ("", ".", "..") or piece.endswith("gs:") for piece in pieces)
    assert bool(paths.IN_BUCKET.search(text)) == bad


def test_a_tilde_is_the_home_folder_as_in_a_shell(home: Path) -> None:
    root = pwd.getpwuid(os.getuid())
    assert paths.as_path("~") == home and paths.as_path(Path("~/a")) == home / "a"
    assert paths.as_path(f"~{root.pw_name}/a") == Path(root.pw_dir) / "a"
    assert paths.as_path("a/~/b") == Path("a/~/b")
    literal = paths.as_path("./~/b")
    assert literal == paths.as_path(literal) == Path.cwd() / "~/b"
    with pytest.raises(ConfigError, match=r"there is no user 'nobody-at-all'; write \./~nobody"):
        paths.as_path("~nobody-at-all/x")
    with pytest.raises(ConfigError, match="null character"):
        paths.as_path("a\0b")


def test_a_name_that_is_too_long_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be opened: File name too long"):
        run(tiny_config(), tmp_path / ("a" * 300) / "run")


def test_each_command_and_file_of_a_run_knows_the_home_folder(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(config: Config, workdir: Path, *_: Any) -> None:
        raise ConfigError(f"would train in {workdir} from {config.resume_from}")

    monkeypatch.setattr("flaxae.training.loop.make_setup", stop)
    with pytest.raises(ConfigError, match=f"would train in {home}/new from {home}/run"):
        run(tiny_config(resume_from="~/run"), "~/new")
    save(paths.as_path("~/run"), 2)
    assert read_arrays("~/run")[2] == 2
    monkeypatch.setattr(evaluate, "evaluate", lambda *a: {"args": [str(x) for x in a[:2]]})
    assert evaluate.main(["evaluate", "~/run", "--json=~/out.json", "--outdir=~/report"]) == 0
    assert json.loads((home / "out.json").read_text()) == {"args": ["~/run", "~/report"]}
    assert sorted(x.name for x in home.iterdir()) == ["new", "out.json", "run"]
    assert not list(Path.cwd().iterdir())


def test_a_json_file_that_cannot_be_written_is_reported_before_the_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "evaluate", lambda *_: pytest.fail("evaluated"))
    for file in (tmp_path / "missing" / "out.json", tmp_path):
        with pytest.raises(ConfigError, match=f"--json={file}: "):
            evaluate.main(["evaluate", "run", f"--json={file}"])


def test_a_config_keeps_paths_with_the_home_folder_in_them(home: Path) -> None:
    config = Config(pretrained="~/weights", resume_from="~", profile=())
    assert config.pretrained == str(home / "weights") and config.resume_from == str(home)
    config.data = DataConfig(cache="~/cache")
    assert config.data.cache == str(home / "cache")
    assert from_json(to_json(config) | {"pretrained": "~/w"}).pretrained == str(home / "w")
    assert Config(pretrained="~x/y").pretrained == "~x/y"  # not a path's beginning for sure


def test_files_are_opened_in_the_home_folder(home: Path) -> None:
    (home / "mine.py").write_text("")
    assert locate("~/mine.py") == home / "mine.py"
    (home / "password").write_text("long enough\n")
    assert read_password("~/password") == "long enough"
    (home / "model").mkdir()
    assert hf.resolve("~/model") == home / "model"
    with pytest.raises(ConfigError, match="no .* file found"):
        tables.read("~/model", 4)


@pytest.mark.parametrize("name", ["a?b", "[1]", "**", "[!a]"])
def test_a_table_is_read_from_its_own_folder_only(name: str, tmp_path: Path) -> None:
    """`datasets` takes the names of files for patterns, which match other folders' files too."""
    datasets = pytest.importorskip("datasets")
    for folder in (name, "axb", "1"):
        (tmp_path / folder).mkdir()
        file = str(tmp_path / folder / "x.parquet")
        datasets.Dataset.from_dict({"text": [folder]}).to_parquet(file)
    table, _ = load_files([str(tmp_path / name / "x.parquet")])
    assert table["text"][:] == [name]


def test_a_config_file_may_have_a_colon_in_its_path(tmp_path: Path) -> None:
    file = tmp_path / "a:b" / "mine.py"
    file.parent.mkdir()
    file.write_text("")
    assert split_preset(str(file)) == (str(file), "", "")
    assert split_preset(f"{file}:quick") == (str(file), ":", "quick")
    assert split_preset("configs/t5_vae/python_lines.py:quick")[2] == "quick"
    assert split_preset("missing.py:quick") == ("missing.py", ":", "quick")
