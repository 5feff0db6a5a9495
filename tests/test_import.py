"""What importing flaxae must not do."""

import subprocess
import sys

import pytest

from tests.helpers import ROOT, environment

MODULES = ["flaxae", "flaxae.config.flags", "flaxae.training.loop", "flaxae.models.t5_vae.task"]


@pytest.mark.parametrize("module", MODULES)
def test_neither_torch_nor_tensorflow(module):
    code = (
        f"import sys, {module}; "
        "print([m for m in ('torch', 'tensorflow') if m in sys.modules])"
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment(), capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_no_device_is_used_by_importing():
    """jax.distributed must come before any use of a device, and imports come before it."""
    code = (
        "import flaxae.training.loop, flaxae.models.t5_vae.task\n"
        "from jax._src import xla_bridge\n"
        "print(xla_bridge.backends_are_initialized())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment(), capture_output=True, text=True
    )
    assert done.stdout.strip() == "False", done.stderr


def test_facade_is_lazy():
    code = "import sys, flaxae; print('jax' in sys.modules, sorted(flaxae.__all__))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment(), capture_output=True, text=True
    )
    assert done.stdout.startswith("False ['Config', "), done.stderr
