"""The page that joins all reports."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flaxae.models.byte_lm import page


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[list[str]]]:
    """Replace the reports by two that are quickly done; return the options of their calls."""
    calls: dict[str, list[list[str]]] = {"grid": [], "automaton": []}

    def report(module: str) -> Any:
        name = module.rpartition(".")[2].removesuffix("_report")

        def main(argv: list[str]) -> int:
            calls[name].append(argv[1:])
            if name == "automaton" and len(calls[name]) == 1:
                return 75  # interrupted
            folder = Path(argv[1].removeprefix("--workdir="))
            folder.mkdir(exist_ok=True)
            (folder / "report.md").write_text(f"# {name}\n\n## Part\n\n![x y](figure.png)\n")
            return 0

        return SimpleNamespace(main=main)

    monkeypatch.setattr(page, "PARTS", tuple(calls))
    monkeypatch.setattr(page.importlib, "import_module", report)
    return calls


def test_an_interrupted_page_continues_and_joins_all_reports(reports: Any, tmp_path: Path):
    command = ["page", f"--workdir={tmp_path}", "--quick", "--all", "--jobs=1"]
    assert page.main(command) == 75
    assert not (tmp_path / "report.md").exists()
    first = json.loads((tmp_path / "seconds.json").read_text())
    assert page.main(command) == 0
    seconds = json.loads((tmp_path / "seconds.json").read_text())
    assert all(0 < first[name] < seconds[name] for name in ("grid", "automaton"))
    grid = [f"--workdir={tmp_path / 'grid'}", "--quick", "--all", "--jobs=1"]
    assert reports["grid"] == [grid, grid]
    assert reports["automaton"][1] == [f"--workdir={tmp_path / 'automaton'}", "--quick"]
    text = (tmp_path / "report.md").read_text()
    assert "## grid\n\n### Part\n\n![x y](grid/figure.png)" in text
    assert "## automaton\n\n### Part\n\n![x y](automaton/figure.png)" in text
    assert "| grid | 0.0 |" in text


def test_a_record_begins_with_the_rows_of_the_same_data(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    source, record = tmp_path / "source.jsonl", tmp_path / "x" / "runs.jsonl"
    rows: list[dict[str, Any]] = [
        {"run": "0", "data": "a"},
        {"run": "1", "data": "b", "overrides": {}},
        {"run": "2", "data": "c", "overrides": {"data.path": "other"}},
    ]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(page, "locate", lambda file: source if "automaton" in file else None)
    page.begin_record("automaton", record, "b")
    assert [json.loads(line) for line in record.read_text().splitlines()] == rows[1:]
    record.write_text("")
    page.begin_record("automaton", record, "b")  # the record of an interrupted report is kept
    assert record.read_text() == ""
    page.begin_record("grid", tmp_path / "grid.jsonl", "b")
    assert not (tmp_path / "grid.jsonl").exists()
