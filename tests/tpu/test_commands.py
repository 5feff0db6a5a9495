"""That the commands which the pages and --help show could train: their data reach the workers."""

import re
import shlex
from pathlib import Path

import pytest

from flaxae.config import flags
from tests.tpu.world import ROOT, World

PLACES = ("README.md", "tpu/README.md", "tpu/run.sh")


def shown(text: str) -> list[list[str]]:
    """The launches in a text."""
    text = text.replace("\\\n", " ")
    return [shlex.split(line) for line in re.findall(r"^ *tpu/run.sh .* -- .*=.*$", text, re.M)]


@pytest.mark.parametrize("place", PLACES)
def test_the_data_reach_the_workers(world: World, monkeypatch: pytest.MonkeyPatch, place: str):
    monkeypatch.chdir(ROOT)
    commands = shown(Path(place).read_text())
    assert commands
    for command in commands:
        options, arguments = command[1 : command.index("--")], command[command.index("--") + 1 :]
        config, workdir, _ = flags.parse(["train.py", *arguments])
        assert workdir.startswith("gs://")
        # What git archive sends has no data.
        assert config.data.path == "../data" and "--data" in options
        assert not config.pretrained, "weights that nobody said how to get"
        result = world.run(*options, "--dry-run", args=arguments)
        assert result.returncode == 0 and result.stderr == ""
        setup = next(line for line in result.stdout.splitlines() if "worker.sh\\ setup" in line)
        assert options[options.index("--data") + 1] in setup
