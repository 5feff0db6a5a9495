"""Documents name files that exist, and are not too long."""

import re
from pathlib import Path

import pytest

from flaxae.config import flags
from flaxae.text_autoencoder import protocol
from flaxae.training.loop import run
from tests.helpers import ROOT

FRONT = ROOT / "README.md"
PAGES = sorted(
    [FRONT, ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "tpu").glob("*.md")]
)
ROOM_READMES = sorted([*(ROOT / "flaxae").rglob("README.md"), ROOT / "tpu" / "README.md"])
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.M | re.S)
# Paths of the repository in backticks, with an optional preset: `configs/looped/linear.py:full`.
PATH = re.compile(
    r"`((?:flaxae|configs|docs|tests|benchmarks|tpu|colab)/[\w./*-]*?[\w/])(?::[\w]+)?`"
)
CODE = re.compile(r"`[^`]*`")
DATED = "docs/lab_notes/"  # these pages may name files that were moved since
PLACEHOLDER = re.compile(r"\b(NAME|FAMILY|EXPERIMENT|DIR)\b")


UNFILLED = re.compile(r"[A-Z]+(?:_[A-Z]+)+|TODO|TBD|XXX")  # a cell, without its unit and marks


def unfilled(text: str) -> list[str]:
    """Return the cells of tables that contain a placeholder instead of a value."""
    rows = [row for row in FENCE.sub("", text).splitlines() if row.startswith("|")]
    cells = [cell.strip(" *~") for row in rows for cell in row.strip("|").split("|")]
    return [cell for cell in cells if UNFILLED.search(CODE.sub("", cell))]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("page", [*PAGES, *ROOM_READMES], ids=name)
def test_links_and_paths_exist(page: Path):
    text = FENCE.sub("", page.read_text())
    links = [link.partition("#")[0] for link in LINK.findall(text)]
    missing = [
        link
        for link in links
        if link
        and not link.startswith(("http://", "https://"))
        and not (page.parent / link).exists()
    ]
    if not name(page).startswith(DATED):
        paths = [path for path in PATH.findall(text) if not PLACEHOLDER.search(path)]
        missing += [path for path in paths if not any(ROOT.glob(path.rstrip("/")))]
    assert not missing, f"{name(page)} names files that do not exist: {missing}"


def test_tables_have_no_placeholders():
    pages = {name(page): unfilled(page.read_text()) for page in {*PAGES, *ROOM_READMES}}
    assert {page: cells for page, cells in pages.items() if cells} == {}
    assert unfilled("| `A_B` | LLAMA_HBM of 16 GiB | 1 |\n| TODO |") == [
        "LLAMA_HBM of 16 GiB",
        "TODO",
    ]


@pytest.mark.parametrize("page", ROOM_READMES, ids=name)
def test_file_tables_of_packages_exist(page: Path):
    rows = re.findall(r"^\| (`[^|]*`) \|", page.read_text(), re.M)
    names = [n for row in rows for n in re.findall(r"`([\w/]+(?:\.\w+|/))`", row)]
    missing = [n for n in names if not ((page.parent / n).exists() or (ROOT / n).exists())]
    assert not missing, f"{name(page)} names files that do not exist: {missing}"


def test_the_front_page_is_short():
    lines = FRONT.read_text().splitlines()
    assert len(lines) <= 130
    assert [line for line in lines if len(line) > 120] == []


@pytest.mark.parametrize("page", ROOM_READMES, ids=name)
def test_readmes_of_packages_are_short(page: Path):
    assert len(page.read_text().splitlines()) <= 80


def test_the_family_of_the_page_trains(tmp_path: Path):
    page = (ROOT / "docs" / "adding_a_family.md").read_text()
    code = re.search(r"^```python\n(import dataclasses\n.*?)^```", page, re.M | re.S)
    assert code
    (tmp_path / "sine.py").write_text(code[1])
    config = flags.load_config(str(tmp_path / "sine.py"))
    config.steps = 20
    result = run(config, tmp_path / "run")
    assert result.status == "done" and result.metrics["dev/error"] < 1


def test_the_autoencoders_of_the_page_run():
    page = (ROOT / "docs" / "adding_a_family.md").read_text()
    section = page.partition("## A text autoencoder\n")[2].partition("\n## ")[0]
    names = {}
    for code in re.findall(r"^```python\n(.*?)^```", section, re.M | re.S):
        exec(code, names)
    members = {name for name in vars(protocol.LatentModel) if not name.startswith("_")}
    assert [name for name in members if not hasattr(names["MyModel"], name)] == []
    explorer = names["explorer"]
    explorer.warm_up()
    assert explorer.reconstruct("count = 5").decoded == "count = 5"
    assert len(explorer.samples("gaussian", 3).texts) == 3
