"""The README's examples run unchanged, each alone, in a folder with a base."""

import re
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from flaxae import lm, peft
from tests.helpers import ROOT
from tests.models.causal_lm.tiny import base

BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "flaxae/peft/README.md").read_text(), re.S)


def test_the_examples_are_five_lines_long():
    assert [sum(bool(line) for line in block.splitlines()) for block in BLOCKS] == [5, 5]


@pytest.mark.parametrize("index", range(2))
def test_an_example_runs(index, tmp_path, monkeypatch, capsys):
    base(tmp_path / "base")
    model = lm.load(tmp_path / "base").model
    peft.save_adapter(peft.add_adapter(model, peft.LoRAConfig()), tmp_path / "adapter")
    monkeypatch.chdir(tmp_path)
    exec(BLOCKS[index], {})
    if index == 0:
        assert "LoRAConfig" in capsys.readouterr().out
    else:
        assert len(load_file(Path("mine") / "adapter_model.safetensors")) == 8
