# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Exploring a latent space
#
# A **T5-VAE** encodes a text as one vector, its *code* or *latent*, and decodes the text again
# from this vector alone. If it does so well, the code contains the whole text, and you can walk
# through the space of all codes: between two texts, around a text, or to places where no text
# has been.
#
# This notebook installs the library, opens a trained model (or trains a small one here), shows
# the explorer in the page, and then asks the same questions in Python.
#
# *Note:* a model that reconstructs well may still have holes between its texts. The strip at the
# top of the explorer says how good this model is. Read it before you interpret what the model
# writes.

# %% [markdown]
# ## 1. Install
#
# In Colab this takes a few minutes. If the library is installed already, the cell does nothing.
# Otherwise `SOURCE` says where the library is: a git address, a folder with `pyproject.toml`, or a
# wheel; a folder or a wheel may be in Drive
# (`from google.colab import drive; drive.mount("/content/drive")`).

# %%
# ruff: noqa: E402
import glob
import importlib.util
import os
import re
import subprocess
import sys

SOURCE = ""  # "https://.../flaxae.git", "/content/drive/MyDrive/flaxae", "flaxae-...-any.whl"


def pip_install(*names):
    """Install packages."""
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", *names], check=True)


def accelerator():
    """Return the packages that jax needs for this machine's GPU or TPU (not tested in Colab)."""
    try:
        output = subprocess.run(["nvidia-smi"], capture_output=True, text=True, check=False).stdout
    except OSError:
        output = ""
    if found := re.search(r"CUDA Version: (\d+)", output):
        return [f"jax[cuda{min(int(found[1]), 13)}]"]
    return ["jax[tpu]"] if glob.glob("/dev/accel*") + glob.glob("/dev/vfio/[0-9]*") else []


def install(source):
    """Install flaxae."""
    if not source:
        raise SystemExit(
            "flaxae is not installed here. Set SOURCE in this cell to a git address, a folder with "
            "pyproject.toml, or a wheel, and run the cell again."
        )
    if os.path.isdir(source) and not os.path.isfile(os.path.join(source, "pyproject.toml")):
        raise SystemExit(f"SOURCE={source!r} is a folder without pyproject.toml.")
    if not (os.path.isdir(source) or source.endswith(".whl")):
        source = source.removeprefix("git+")
        if found := re.fullmatch(r"([^/:]+@[^/:]+):/*(.+)", source):  # user@host:owner/name
            source = f"ssh://{found[1]}/{found[2]}"
        source = f"git+{source}"
    pip_install(source, *accelerator())


if importlib.util.find_spec("flaxae") is None:
    install(SOURCE)
needed = {"panel": "panel", "bokeh": "bokeh", "umap": "umap-learn"}
missing = [name for module, name in needed.items() if importlib.util.find_spec(module) is None]
if missing:
    pip_install(*missing)

# %%
import jax

print("running on", jax.devices()[0].device_kind)

# %% [markdown]
# ## 2. Choose a model
#
# * **a folder**: a run's workdir, or what `save_pretrained` wrote, here or in Drive;
# * **a Hub id**: `owner/name`;
# * **nothing**: the quick demo is trained here. This takes ten to thirty minutes on a CPU, and less
#   on a GPU or a TPU. The demo learns the lines of Python's own standard library.

# %%
MODEL = ""  # "runs/demo", "/content/drive/MyDrive/my_vae", "owner/name"
CORPUS = ""  # a file with one text per line; "": the texts that the model was trained on

# Set by the test of this notebook: a toy model, trained in seconds, without any abilities.
TINY = os.environ.get("FLAXAE_NOTEBOOK_TINY", "")

# %%
if TINY:
    MODEL, CORPUS = TINY, f"{TINY}/corpus.txt"
elif not MODEL:
    from flaxae.models.t5_vae.demo import run_demo

    MODEL = "runs/demo-quick"
    if run_demo("quick", MODEL):
        raise SystemExit("The training was interrupted and saved: run this cell again to continue.")

# %% [markdown]
# ## 3. The explorer
#
# `Explorer` contains the model, the texts that it is explored with, and their codes.

# %%
from flaxae import explore

explorer = explore.Explorer.open(MODEL, CORPUS or None)
print(len(explorer.texts), "texts, codes of", explorer.size, "numbers")
for fact in explorer.about:
    print(f"{fact.name}: {fact.value}")

# %% [markdown]
# The app. Nothing leaves this machine: the app uses the notebook's own channel.
#
# *Try this:* in **Between two texts**, move the slider slowly from one line to another of the same
# kind, then to one of another kind. In **Map**, colour by kind and by length: which of the two does
# the code represent? In **Samples**, lower the temperature until the texts are valid. What have
# they lost?

# %%
explore.app(explorer)

# %% [markdown]
# ## 4. The same in Python
#
# Every view has a button *Copy as code*, which copies lines like the following. First: is the code
# faithful? Encode some real texts and decode them again.

# %%
for text in explorer.texts[:5]:
    back = explorer.reconstruct(text)
    print("same " if back.exact else f"{back.edits:4} ", repr(text), "->", repr(back.decoded))

# %% [markdown]
# **Between two texts.** Path ratio 1 means that there are no detours; largest step 1 means that all
# change happens in a single jump. Both are 1 for a model that only copies the two ends, so read
# them together with the texts.

# %%
A, B, C = sorted(explorer.texts, key=len)[len(explorer.texts) // 2 :][:3]
path = explorer.between(A, B)
for text, repeats in zip(path.texts, path.repeats, strict=True):
    print("   ..." if repeats else repr(text))
print(f"path ratio {path.path_ratio:.2f}, largest step {path.largest_step:.2f}")

# %% [markdown]
# **The map** shows the corpus along the two directions in which its codes vary most. These are two
# of many dimensions: texts that are near on the map may have very different codes.

# %%
share = explorer.gaussian.variances / explorer.gaussian.variances.sum()
print(f"the map shows {share[:2].sum():.1%} of the variance")
points = explorer.pca()
print("the middle of the map:", repr(explorer.place(0.0, 0.0).decoded))

# %% [markdown]
# **Around a text**: its code, moved along the direction of largest variance by some standard
# deviations.

# %%
for amount in (-3, -1.5, 0, 1.5, 3):
    print(f"{amount:+.1f}", repr(explorer.around(A, {0: amount})))

# %% [markdown]
# **Arithmetic**: a − b + c, compared with copies. An answer that equals one of the three texts says
# nothing about their relation.

# %%
answer = explorer.arithmetic(A, B, C)
print(repr(answer.text))
for copy in answer.copies:
    print(f"copy of {copy.name}: {copy.edits} edits, cosine {copy.cosine:.2f}")

# %% [markdown]
# **Samples**: codes from N(0, I), and from a Gaussian fitted to the codes. If the second gives
# better texts, the codes are not distributed as N(0, I): MMD² in the strip measures this.

# %%
for prior in ("normal", "gaussian"):
    drawn = explorer.samples(prior, 8)
    print(prior, "valid:", drawn.valid, "different:", drawn.distinct)
    print(*map(repr, drawn.texts[:3]), sep="\n")

# %% [markdown]
# **Neighbours**: which texts have similar codes?

# %%
for near in explorer.neighbours(A, 5):
    print(f"{near.distance:.3f}", repr(near.text))

# %% [markdown]
# ## 5. Your turn
#
# The model itself is `explorer.model`, with the whole interface of the library.

# %%
z = explorer.model.encode([A, B])
print(z.shape, explorer.model.decode((z[:1] + z[1:]) / 2))
