"""The launches in documentation and --help are complete: their data reach the workers."""

import re
import shlex
from pathlib import Path

import pytest

from flaxae.config import flags
from tests.tpu.world import ROOT, World

PLACES = ("README.md", "tpu/README.md", "tpu/run.sh")


def launches(text: str) -> list[list[str]]:
    """Return the launches in a text as words."""
    text = text.replace("\\\n", " ")
    return [shlex.split(line) for line in re.findall(r"^ *tpu/run.sh .* -- .*=.*$", text, re.M)]


@pytest.mark.parametrize("place", PLACES)
def test_data_of_documented_launches_reach_the_workers(
    world: World, monkeypatch: pytest.MonkeyPatch, place: str
):
    monkeypatch.chdir(ROOT)
    commands = launches(Path(place).read_text())
    assert commands
    for command in commands:
        options, arguments = command[1 : command.index("--")], command[command.index("--") + 1 :]
        config, workdir, _ = flags.parse(["train.py", *arguments])
        assert workdir.startswith("gs://")
        # The code that git archive sends contains no data.
        assert config.data.path == "../data" and "--data" in options
        assert not config.pretrained, "pretrained weights are not available there"
        result = world.run(*options, "--dry-run", args=arguments)
        assert result.returncode == 0 and result.stderr == ""
        setup = next(line for line in result.stdout.splitlines() if "worker.sh\\ setup" in line)
        assert options[options.index("--data") + 1] in setup
