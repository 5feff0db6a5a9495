"""The demo, the evaluation command and train.py, on a tiny family instead of the T5-VAE."""

import json
from pathlib import Path

import pytest

import train
from flaxae import evaluate, summary
from flaxae.command import run_main
from flaxae.config import flags
from flaxae.models.t5_vae import demo

CONFIG = """
import dataclasses
import json
from pathlib import Path
from tests.tiny.family import TinyConfig, TinyTask, tiny_config

class Reporting(TinyTask):
    def report(self, loaded, outdir):
        result = {"step": loaded.step}
        Path(outdir, "report.json").write_text(json.dumps(result))
        print("reported", loaded.step)
        return result

@dataclasses.dataclass
class ReportingConfig(TinyConfig):
    def make(self, config):
        return Reporting(config)

def get_config(preset="full"):
    config = tiny_config(steps={"full": 6, "quick": 3}[preset])
    config.task = ReportingConfig()
    return config
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    path = tmp_path / "experiment.py"
    path.write_text(CONFIG)
    monkeypatch.setattr(demo, "CONFIG", str(path))
    return str(path)


def test_demo_trains_once_and_shows_its_evaluation_again(file, tmp_path, capsys):
    workdir = str(tmp_path / "w")
    assert demo.run_demo("full", workdir) == 0
    first = capsys.readouterr().out
    assert "PRESET=full" in first and "Trained 6 steps" in first and "reported 6" in first
    assert f"-m flaxae.explore {workdir}" in first
    (tmp_path / "w" / "report" / "report.txt").write_text("the stored text\n")
    assert demo.run_demo("full", workdir) == 0
    again = capsys.readouterr().out
    assert "This run is done (6 steps)" in again and "the stored text" in again
    assert "Expect" not in again and "reported 6" not in again
    # A report of another step is out of date.
    (tmp_path / "w" / "report" / "report.json").write_text('{"step": 5}')
    assert demo.run_demo("full", workdir) == 0
    assert "reported 6" in capsys.readouterr().out


def test_quick_preset_is_the_default_and_names_the_full_one(file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert demo.main(["demo"]) == 0
    out = capsys.readouterr().out
    assert "PRESET=quick, 3 steps, in runs/demo-quick" in out and "PRESET=full: 97 to 98" in out
    (explore,) = (line for line in out.splitlines() if "flaxae.explore" in line)
    assert explore.endswith("-m flaxae.explore runs/demo-quick")


def test_train_and_evaluate_commands(file, tmp_path, capsys):
    workdir = str(tmp_path / "w")
    command = ["train.py", f"--config={file}:quick", f"--workdir={workdir}"]
    assert train.main(command) == 0
    out = capsys.readouterr().out
    assert "is done: step 3." in out and "dev/loss = " in out
    assert train.main(command) == 0
    assert "was done already, at step 3." in capsys.readouterr().out
    command = ["evaluate", workdir, f"--config={file}", f"--json={workdir}/x.json"]
    assert evaluate.main(command) == 0
    assert capsys.readouterr().out.startswith("reported 3\n")
    assert json.loads((tmp_path / "w" / "x.json").read_text()) == {"step": 3}
    assert run_main(evaluate.main, ["evaluate", workdir]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and "is not part of flaxae" in err
    assert run_main(evaluate.main, ["evaluate", str(tmp_path / "none")]) == 2
    assert "not a run's workdir" in capsys.readouterr().err


def test_report_is_written_into_the_given_folder(file, tmp_path):
    workdir = tmp_path / "w"
    assert demo.run_demo("quick", str(workdir)) == 0
    result = evaluate.evaluate(workdir, tmp_path / "out", type(flags.load_config(file).task))
    assert result == {"step": 3}
    assert (tmp_path / "out" / "report.txt").read_text() == "reported 3\n"


def test_summary(file):
    config = flags.load_config(file)
    config.mesh.model = 2
    text = summary.summary(config)
    assert "replica=1 x fsdp=4 x model=2" in text
    assert "| head/kernel" not in text and "| head " in text and "Total: 192" in text
    config.data.batch_size = 6
    with pytest.raises(flags.ConfigError, match="6 rows, not divisible"):
        summary.summary(config)
