"""The notebook in a real JupyterLab: it runs in the page, and the app answers a slider."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import threading

import pytest

from tests.colab.toy import save_toy
from tests.explore.chromium import (
    HANDLE,
    WatchedPage,
    answer_of,
    launch,
    open_view,
    slider_value,
    text_of,
    wait_for,
)
from tests.helpers import ROOT, environment

SETTINGS = {
    # The cell with the app stays in the page when it is scrolled out of view.
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false"},
}
OPTIONS = (
    "--no-browser",
    "--allow-root",
    "--ServerApp.ip=127.0.0.1",
    "--ServerApp.port=0",
    "--IdentityProvider.token=",
    "--ServerApp.password=",
    "--ServerApp.terminals_enabled=False",
    "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    "--LabApp.extension_manager=readonly",
)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Serve a copy of the notebook; provide its address and the folder of the toy model."""
    if importlib.util.find_spec("jupyterlab") is None:
        pytest.skip("needs JupyterLab: pip install jupyterlab")
    folder = tmp_path_factory.mktemp("lab")
    save_toy(folder)
    notebook = (ROOT / "colab" / "latent_explorer.ipynb").read_text()
    (folder / "latent_explorer.ipynb").write_text(notebook)
    own = {name: str(folder / f".{name}") for name in ("config", "data", "runtime", "ipython")}
    settings = folder / ".config" / "labconfig" / "default_setting_overrides.json"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps(SETTINGS))
    env = environment(FLAXAE_NOTEBOOK_TINY=str(folder), HF_HUB_OFFLINE="1")
    env |= {"JUPYTER_CONFIG_DIR": own["config"], "JUPYTER_DATA_DIR": own["data"]}
    env |= {"JUPYTER_RUNTIME_DIR": own["runtime"], "IPYTHONDIR": own["ipython"]}
    # The kernel is this Python, whichever kernels are installed.
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel = folder / ".data" / "kernels" / "python3" / "kernel.json"
    kernel.parent.mkdir(parents=True)
    kernel.write_text(
        json.dumps({"argv": command, "display_name": "Python 3", "language": "python"})
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", *OPTIONS, f"--ServerApp.root_dir={folder}"],
        cwd=folder,
        env=env,
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    output = []
    for line in process.stderr:
        output.append(line)
        if found := re.search(r"http://127\.0\.0\.1:\d+/lab", line):
            break
    else:
        pytest.fail("".join(output))
    threading.Thread(target=lambda: process.stderr.read(), daemon=True).start()
    yield found[0], folder
    process.terminate()  # this also ends its kernels
    process.wait(30)


@pytest.mark.slow
def test_the_app_answers_a_slider_in_jupyterlab(lab):
    from flaxae.explore.backend import Explorer

    url, folder = lab
    explorer = Explorer.open(folder, folder / "corpus.txt")
    with launch() as browser:
        watched = WatchedPage(browser, viewport={"width": 1300, "height": 1000})
        page = watched.page
        page.set_default_timeout(120_000)
        page.goto(f"{url}/tree/latent_explorer.ipynb")
        page.wait_for_selector(".jp-Notebook .jp-CodeCell")
        page.wait_for_selector(
            'text="Python 3 (ipykernel) | Idle"'
        )  # before that the menu runs nothing
        page.click(".lm-MenuBar-item >> text=Run")
        page.click(".lm-Menu-item >> text=/^Run All Cells$/")
        page.wait_for_selector(".view-between .answer .big")
        page.locator(".view-between .slider-at").scroll_into_view_if_needed()
        inputs = page.locator(".view-between .input-text input")
        a, b = (inputs.nth(i).input_value() for i in range(2))
        read = answer_of(page, "between")
        wait_for(lambda: plain(read()), plain(explorer.between_at(a, b, 50)), 60)
        handle = page.locator(f".view-between .slider-at {HANDLE}")
        box = handle.bounding_box()
        track = page.locator(".view-between .slider-at .noUi-base").bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.mouse.down()
        for share in (0.6, 0.75, 0.9):
            page.mouse.move(track["x"] + share * track["width"], box["y"] + 5)
        page.mouse.up()
        wait_for(lambda: 85 <= slider_value(handle) <= 95, True)
        at = int(slider_value(handle))
        assert plain(explorer.between_at(a, b, at)) != plain(explorer.between_at(a, b, 50))
        wait_for(lambda: plain(read()), plain(explorer.between_at(a, b, at)))
        if shots := os.environ.get("FLAXAE_SCREENSHOTS"):
            page.screenshot(path=f"{shots}/jupyterlab.png")
        # Another view opens; its plot is drawn, and coloured again.
        open_view(page, "map")
        wait_for(
            lambda: plain(answer_of(page, "map")()), plain(explorer.place(0.0, 0.0).decoded), 60
        )
        page.locator(".view-map select").nth(1).select_option("length")
        wait_for(lambda: "characters" in text_of(page, ".view-map .legend"), True)
        # The cells below have run too, without an error.
        prompts = page.locator(".jp-CodeCell .jp-InputPrompt")
        wait_for(lambda: all(p[1:2].isdigit() for p in prompts.all_text_contents()), True, 120)
        assert page.locator(".jp-OutputArea-output[data-mime-type*=error]").count() == 0
        watched.assert_quiet(url)


def plain(text):
    """Remove control characters, which the toy writes and HTML keeps only in part."""
    return "".join(c for c in text or "" if c.isprintable() and c != "\N{REPLACEMENT CHARACTER}")
