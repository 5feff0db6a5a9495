"""The record of the code version in a run's folder."""

import subprocess

import pytest

from flaxae.storage import workdir


@pytest.mark.parametrize("git, commit", [("abc\n", "abc"), ("", "sent")])
def test_the_commit_comes_from_git_or_else_from_the_sender(
    git: str, commit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*args, **_):
        return subprocess.CompletedProcess(args, 0 if git else 128, stdout=git, stderr="")

    monkeypatch.setattr(workdir.subprocess, "run", run)
    monkeypatch.setenv("FLAXAE_COMMIT", "sent")
    assert workdir.versions()["commit"] == commit
    monkeypatch.delenv("FLAXAE_COMMIT")
    assert workdir.versions()["commit"] == git.strip()
