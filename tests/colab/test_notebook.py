"""The notebook: it agrees with its script, and runs from top to bottom."""

import glob
import importlib.util
import json
import os
import subprocess
import sys
import types

import pytest

from tests.colab.toy import LINES, save_toy
from tests.helpers import ROOT, environment

SCRIPT, NOTEBOOK = (ROOT / "colab" / f"latent_explorer.{x}" for x in ("py", "ipynb"))


def test_script_and_notebook_agree():
    jupytext = pytest.importorskip("jupytext", reason="pip install jupytext")
    script, notebook = jupytext.read(SCRIPT), jupytext.read(NOTEBOOK)
    pairs = [[(c.cell_type, c.source) for c in x.cells] for x in (script, notebook)]
    assert pairs[0] == pairs[1]
    assert not any(c.get("outputs") for c in notebook.cells)  # outputs would make the file large


def test_the_notebook_runs_from_top_to_bottom(tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="pip install nbclient")
    pytest.importorskip("ipykernel", reason="pip install ipykernel")
    pytest.importorskip("panel", reason="pip install panel")
    import nbformat

    save_toy(tmp_path)
    env = environment() | {"FLAXAE_NOTEBOOK_TINY": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    env["JUPYTER_PATH"] = str(tmp_path / "data")
    # The kernel is this Python, whichever kernels are installed.
    kernel = tmp_path / "data" / "kernels" / "here"
    kernel.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    about = {"argv": command, "display_name": "here", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(about))
    for name in set(os.environ) - set(env):
        monkeypatch.delenv(name)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=180, kernel_name="here")
    client.execute(cwd=str(tmp_path))
    outputs = [x for cell in notebook.cells for x in cell.get("outputs", [])]
    assert not [x for x in outputs if x.output_type == "error"]
    app = [x for x in outputs if "application/vnd.holoviews_exec.v0+json" in x.get("data", {})]
    assert app and "Latent-space explorer" in app[-1]["data"]["text/html"]
    printed = "".join(x.text for x in outputs if x.output_type == "stream" and x.name == "stdout")
    assert "50 texts, codes of 8 numbers" in printed and "exact match: not evaluated" in printed


def cell(start):
    """Return the source of the notebook's cell that contains these words."""
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    sources = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
    (found,) = [source for source in sources if start in source]
    return found


@pytest.mark.parametrize(
    ("source", "installed"),
    [
        ("x/flaxae-1-py3-none-any.whl", "x/flaxae-1-py3-none-any.whl"),
        ("FOLDER", "FOLDER"),
        ("https://host/flaxae.git", "git+https://host/flaxae.git"),
        ("git+https://host/flaxae.git@main", "git+https://host/flaxae.git@main"),
        ("git@host:owner/flaxae.git", "git+ssh://git@host/owner/flaxae.git"),
        ("git+ssh://git@host/owner/flaxae.git", "git+ssh://git@host/owner/flaxae.git"),
    ],
)
@pytest.mark.parametrize(
    ("machine", "extra"),
    [
        ("", []),
        ("CUDA Version: 12.4", ["jax[cuda12]"]),
        ("CUDA Version: 14.1", ["jax[cuda13]"]),
        ("/dev/accel0", ["jax[tpu]"]),
    ],
)
def test_flaxae_is_installed_from_the_given_source(
    tmp_path, monkeypatch, source, installed, machine, extra
):
    (tmp_path / "pyproject.toml").write_text("")
    ran = []

    def run(command, check, **kwargs):
        if command == ["nvidia-smi"]:
            if not machine.startswith("CUDA"):
                raise FileNotFoundError
            return types.SimpleNamespace(stdout=f"| Driver Version: 5   {machine}   |")
        assert check and command[:5] == [sys.executable, "-m", "pip", "install", "-q"]
        ran.append(command[5:])

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "flaxae" else found(n))
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(glob, "glob", lambda name: [machine] if name[:-1] == machine[:-1] else [])
    code = cell("SOURCE = ")
    with pytest.raises(SystemExit, match="Set SOURCE in this cell"):
        exec(code, {})
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match="a folder without pyproject"):
        exec(code.replace('SOURCE = ""', f"SOURCE = {str(tmp_path / 'empty')!r}"), {})
    assert ran == []
    source, installed = (x.replace("FOLDER", str(tmp_path)) for x in (source, installed))
    exec(code.replace('SOURCE = ""', f"SOURCE = {source!r}"), {})
    assert ran == [[installed, *extra]]


CONFIG = """
from tests.models.t5_vae.tiny import tiny_config

def get_config(preset="full"):
    config = tiny_config(data__max_length=16, data__vocab_size=280, data__path="PATH",
                         data__batch_size=16, steps=4)
    config.save.every = config.eval.every = 2
    return config
"""


@pytest.mark.slow
def test_the_quick_demo_is_trained_in_the_notebook(tmp_path, monkeypatch):
    from flaxae.models.t5_vae import demo

    (tmp_path / "lines.txt").write_text(
        "\n".join(f"{line} # {i}" for i in range(9) for line in LINES)
    )
    config = tmp_path / "tiny.py"
    config.write_text(CONFIG.replace("PATH", str(tmp_path / "lines.txt")))
    monkeypatch.setattr(demo, "CONFIG", str(config))
    monkeypatch.setattr(demo, "evaluate", lambda *args, **kwargs: None)  # takes minutes
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FLAXAE_NOTEBOOK_TINY", raising=False)
    space = {"os": os}
    for start in ('MODEL = ""', "run_demo(", "Explorer.open("):
        exec(cell(start), space)
    assert space["MODEL"] == "runs/demo-quick" and (tmp_path / "runs/demo-quick/latest").is_dir()
    assert space["explorer"].model.step == 4 and len(space["explorer"].texts) > 100
