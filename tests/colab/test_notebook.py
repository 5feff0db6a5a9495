"""The notebook: paired with its script, and run from top to bottom."""

import json
import os
import sys

import pytest

from tests.helpers import ROOT, environment

SCRIPT, NOTEBOOK = (ROOT / "colab" / f"latent_explorer.{x}" for x in ("py", "ipynb"))
LINES = [f"{word} = {i}" for i in range(10) for word in ("x", "y", "name", "import os", "self")]


def test_script_and_notebook_agree():
    jupytext = pytest.importorskip("jupytext", reason="pip install jupytext")
    script, notebook = jupytext.read(SCRIPT), jupytext.read(NOTEBOOK)
    pairs = [[(c.cell_type, c.source) for c in x.cells] for x in (script, notebook)]
    assert pairs[0] == pairs[1]
    assert not any(c.get("outputs") for c in notebook.cells)  # kept small


def a_toy(folder):
    """An untrained T5-VAE as `save_pretrained` writes it, with texts."""
    from flax import nnx

    import flaxae
    from flaxae.data.tokenizer import train
    from tests.models.t5_vae.tiny import tiny_config

    config = tiny_config(data__max_length=16, data__vocab_size=280)
    config.freeze()
    model = config.task.make(config).init(nnx.Rngs(0))
    vae = flaxae.T5VAE(model, config, train(LINES, 270), 7, lines=lambda: LINES)
    vae.save_pretrained(folder)
    (folder / "corpus.txt").write_text("\n".join(LINES))


def test_the_notebook_runs(tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="pip install nbclient")
    pytest.importorskip("ipykernel", reason="pip install ipykernel")
    pytest.importorskip("panel", reason="pip install panel")
    import nbformat

    a_toy(tmp_path)
    env = environment() | {"FLAXAE_NOTEBOOK_TINY": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    env["JUPYTER_PATH"] = str(tmp_path / "data")
    # Its kernel is this Python, whatever kernels are installed.
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
    told = "".join(x.text for x in outputs if x.output_type == "stream" and x.name == "stdout")
    assert "50 texts, codes of 8 numbers" in told and "exact match: not evaluated" in told
