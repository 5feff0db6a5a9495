"""Config files of an installed flaxae."""

import importlib.machinery
import importlib.util
import runpy
import sys
from pathlib import Path

import pytest

from flaxae.config import locate
from tests.helpers import ROOT


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Provide a package `flaxae.configs` with two files, one of which imports the other."""
    folder = tmp_path / "site-packages" / "configs" / "family"
    folder.mkdir(parents=True)
    (folder / "base.py").write_text("STEPS = 3\n")
    (folder / "more.py").write_text("from configs.family.base import STEPS\n")
    spec = importlib.machinery.ModuleSpec(locate.PACKAGE, None, is_package=True)
    spec.submodule_search_locations = [str(folder.parent)]
    package = importlib.util.module_from_spec(spec)
    for name in [name for name in sys.modules if name.split(".")[0] == locate.FOLDER]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, locate.PACKAGE, package)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if Path(p or ".").resolve() != ROOT])
    monkeypatch.chdir(tmp_path)
    yield folder
    for name in [name for name in sys.modules if name.split(".")[0] == locate.FOLDER]:
        del sys.modules[name]


def test_a_file_of_the_current_folder_comes_first(installed, tmp_path):
    assert locate.locate("configs/family/base.py") == installed / "base.py"
    own = tmp_path / "configs" / "family"
    own.mkdir(parents=True)
    (own / "base.py").write_text("STEPS = 5\n")
    assert locate.locate("configs/family/base.py") == Path("configs/family/base.py")


def test_installed_files_import_each_other(installed):
    path = locate.locate("configs/family/more.py")
    assert runpy.run_path(str(path))["STEPS"] == 3


def test_the_checkout_is_used_if_the_package_has_no_configs(installed, monkeypatch):
    spec = importlib.machinery.ModuleSpec(locate.PACKAGE, None, is_package=True)
    monkeypatch.setitem(sys.modules, locate.PACKAGE, importlib.util.module_from_spec(spec))
    path = locate.locate("configs/looped/relu.py")
    assert path == ROOT / "configs" / "looped" / "relu.py"
    assert runpy.run_path(str(path))["full"].__module__ == "configs.looped.linear"


@pytest.mark.parametrize(
    "file", ["configs/family/none.py", "family/base.py", "configs/../configs/family/base.py"]
)
def test_other_paths_are_not_found(installed, file):
    assert locate.locate(file) is None


def test_the_build_installs_every_folder_of_configs(monkeypatch):
    setuptools = pytest.importorskip("setuptools")
    given = {}
    monkeypatch.setattr(setuptools, "setup", given.update)
    monkeypatch.chdir(ROOT)
    runpy.run_path("setup.py")
    families = {path.parent.name for path in (ROOT / "configs").glob("*/*.py")}
    assert {f"flaxae.configs.{family}" for family in families} <= set(given["packages"])
    assert given["package_dir"] == {"flaxae.configs": "configs"}
    modules = {str(path.parent.relative_to(ROOT)) for path in (ROOT / "flaxae").rglob("*.py")}
    assert {module.replace("/", ".") for module in modules} <= set(given["packages"])
