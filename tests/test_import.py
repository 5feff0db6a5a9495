"""Importing flaxae: what it must not import, and what it must not change."""

import ast
import importlib
import subprocess
import sys
import types

import pytest

from tests.helpers import ROOT, environment


def printed(code: str) -> str:
    """Run code in a new process; return what it printed."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


MODULES = ["flaxae", "flaxae.config.flags", "flaxae.training.loop", "flaxae.models.t5_vae.task"]


def test_importing_loads_neither_torch_nor_tensorflow_and_uses_no_device():
    """jax.distributed must be initialized before any use of a device, and after the imports."""
    code = (
        f"import sys, {', '.join(MODULES)}\n"
        "print([m for m in ('torch', 'tensorflow') if m in sys.modules])\n"
        "from jax._src import xla_bridge\n"
        "print(xla_bridge.backends_are_initialized())"
    )
    assert printed(code).splitlines() == ["[]", "False"]


def test_the_facade_imports_no_jax():
    code = "import sys, flaxae; print('jax' in sys.modules, sorted(flaxae.__all__))"
    out = printed(code)
    assert out.startswith("False [") and "'Config'" in out and "'SAE'" in out


def test_opening_a_run_imports_neither_the_optimizer_nor_the_resume_logic():
    code = "import sys, flaxae.training.load\n"
    code += "print(sorted(m for m in sys.modules if m.startswith('flaxae.training.')))"
    parts = [f"flaxae.training.{name}" for name in ("frozen", "layout", "load")]
    assert printed(code).strip() == str(parts)


def test_importing_changes_no_log_filter_and_no_hook():
    code = (
        "import sys, logging\n"
        "before = sys.unraisablehook\n"
        "import flaxae.training.loop, flaxae.command, flaxae.storage.checkpoint\n"
        "def filters(): return [logging.getLogger(n).filters for n in ('absl', 'asyncio')]\n"
        "print(sys.unraisablehook is before, filters())\n"
        "flaxae.command.run_main(lambda argv: 0, [])\n"
        "flaxae.command.run_main(lambda argv: 0, [])\n"
        "print(sys.unraisablehook is before, [len(f) for f in filters()])"
    )
    assert printed(code).splitlines() == ["True [[], []]", "False [1, 1]"]


LAZY = sorted(
    ".".join(path.parent.relative_to(ROOT).parts)
    for path in (ROOT / "flaxae").rglob("__init__.py")
    if "def __getattr__" in path.read_text()
)


@pytest.mark.parametrize("package", LAZY)
def test_no_lazy_name_is_also_a_module_of_its_package(package):
    """Importing a module binds its name in the package, over the object of a lazy name."""
    names = set(importlib.import_module(package).__all__)
    assert names and not names & {p.stem for p in ROOT.joinpath(*package.split(".")).iterdir()}


@pytest.mark.parametrize("package", LAZY)
def test_lazy_names_exist_and_stay_what_they_are(package):
    module = importlib.import_module(package)
    targets = {name: target.partition(":") for name, target in getattr(module, "_LAZY", {}).items()}
    for name in module.__all__:
        path, _, attribute = targets.get(name, ("", "", ""))
        if path.startswith("flaxae.explore."):  # importing Panel takes seconds
            tree = ast.parse(ROOT.joinpath(*path.split(".")).with_suffix(".py").read_text())
            assert attribute in {getattr(node, "name", "") for node in tree.body}
            continue
        first = getattr(module, name)
        if path:
            assert getattr(importlib.import_module(path), attribute) is first
        assert getattr(module, name) is first and not isinstance(first, types.ModuleType)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = module.nonsense
