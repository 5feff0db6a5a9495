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
# A **T5-VAE** reads a text into one vector, its *code* or *latent*, and writes the text again
# from that vector alone. If it does so well, the code holds the whole text, and the space of
# all codes can be walked: between two texts, around a text, or to places where no text has
# been.
#
# This notebook installs the library, opens a trained model (or trains a small one here), shows
# the explorer in the page, and then asks the same questions in Python.
#
# *Look out for:* a model that reconstructs well may still have holes between its texts. The
# strip above the explorer says how good this model is: read it before reading meaning into what
# it writes.

# %% [markdown]
# ## 1. Install
#
# In Colab this takes a few minutes. Where the library is there already, it does nothing.
# Otherwise `SOURCE` says where it comes from: an address that `git clone` takes, a folder that
# holds `pyproject.toml`, or a wheel; the last two may be in Drive
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
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", *names], check=True)


def accelerator():
    """What jax needs for this machine's GPU or TPU, as pip names it; not tried in Colab."""
    try:
        told = subprocess.run(["nvidia-smi"], capture_output=True, text=True, check=False).stdout
    except OSError:
        told = ""
    if found := re.search(r"CUDA Version: (\d+)", told):
        return [f"jax[cuda{min(int(found[1]), 13)}]"]
    return ["jax[tpu]"] if glob.glob("/dev/accel*") + glob.glob("/dev/vfio/[0-9]*") else []


def install(source):
    if not source:
        raise SystemExit(
            "flaxae is not installed here. Set SOURCE in this cell to where it is (an address that "
            "git clone takes, a folder with pyproject.toml, or a wheel), and run the cell again."
        )
    if source.endswith(".whl"):
        pip_install(source, *accelerator())
        return
    folder = source
    if not os.path.isfile(os.path.join(folder, "pyproject.toml")):
        if os.path.exists(source):
            raise SystemExit(f"SOURCE={source!r} is there, but holds no pyproject.toml.")
        folder = "flaxae_source"
        subprocess.run(["git", "clone", "-q", source, folder], check=True)
    pip_install("-e", folder, *accelerator())
    sys.path.insert(0, os.path.abspath(folder))


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
# * **nothing**: the quick demo is trained here. On a CPU that takes from ten minutes to half an
#   hour, on a GPU or a TPU less. It learns the lines of Python's own standard library.

# %%
MODEL = ""  # "runs/demo", "/content/drive/MyDrive/my_vae", "owner/name"
CORPUS = ""  # a text file, one text a line; "": the texts that the model was trained on

# Set by the notebook's own test: a toy model that is trained in seconds and can do nothing.
TINY = os.environ.get("FLAXAE_NOTEBOOK_TINY", "")

# %%
if TINY:
    MODEL, CORPUS = TINY, f"{TINY}/corpus.txt"
elif not MODEL:
    import flaxae
    from flaxae.models.t5_vae.demo import run_demo

    os.chdir(os.path.dirname(os.path.dirname(flaxae.__file__)))  # where its configs are
    if not os.path.isdir("configs"):
        raise SystemExit("A wheel holds no configs to train by: set MODEL, or SOURCE to a folder.")
    MODEL = "runs/demo-quick"
    if run_demo("quick", MODEL):
        raise SystemExit("The training was stopped, and is saved: run this cell again to go on.")

# %% [markdown]
# ## 3. The explorer
#
# `Explorer` holds the model, the texts that it is explored with, and their codes.

# %%
from flaxae import explore

explorer = explore.Explorer.open(MODEL, CORPUS or None)
print(len(explorer.texts), "texts, codes of", explorer.size, "numbers")
for fact in explorer.about:
    print(f"{fact.name}: {fact.value}")

# %% [markdown]
# The app. Nothing leaves this machine: it talks through the notebook's own channel.
#
# *Try:* in **Between two texts**, slide slowly from one line to another of the same kind, then
# to one of another kind. In **Map**, colour by kind and by length: which of them does the code
# know? In **Samples**, lower the temperature until the texts become valid. What have they lost?

# %%
explore.app(explorer)

# %% [markdown]
# ## 4. The same in Python
#
# Every view has a button *Copy as code*, which gives lines such as these. First, is the code
# faithful? Take some real texts through it and back.

# %%
for text in explorer.texts[:5]:
    back = explorer.reconstruct(text)
    print("same " if back.exact else f"{back.edits:4} ", repr(text), "->", repr(back.made))

# %% [markdown]
# **Between two texts.** Path ratio 1 means no detours; largest step 1 means that all change
# happens in one jump. Both are 1 for a model that just copies its ends, so look at them with
# the texts.

# %%
A, B, C = sorted(explorer.texts, key=len)[len(explorer.texts) // 2 :][:3]
way = explorer.between(A, B)
for text, repeats in zip(way.texts, way.repeats, strict=True):
    print("   ..." if repeats else repr(text))
print(f"path ratio {way.path_ratio:.2f}, largest step {way.largest_step:.2f}")

# %% [markdown]
# **The map** is the corpus along the two directions in which its codes vary most. Of hundreds of
# dimensions that is little: near on the map is not near in the code.

# %%
share = explorer.shape.variances / explorer.shape.variances.sum()
print(f"the map shows {share[:2].sum():.1%} of the variance")
points = explorer.pca()
print("the middle of the map:", repr(explorer.place(0.0, 0.0).decoded))

# %% [markdown]
# **Around a text**: its code moved along the widest direction, in standard deviations.

# %%
for amount in (-3, -1.5, 0, 1.5, 3):
    print(f"{amount:+.1f}", repr(explorer.around(A, {0: amount})))

# %% [markdown]
# **Arithmetic**: a − b + c, beside the copies. An answer that is one of the three has learned
# nothing of their relation.

# %%
answer = explorer.arithmetic(A, B, C)
print(repr(answer.text))
for copy in answer.copies:
    print(f"copy of {copy.name}: {copy.edits} edits, cosine {copy.cosine:.2f}")

# %% [markdown]
# **Samples**: codes from N(0, I), and from a Gaussian fitted to the codes. If the second is
# better, the codes are not yet N(0, I): that is what MMD² in the strip measures.

# %%
for prior in ("normal", "gaussian"):
    drawn = explorer.samples(prior, 8)
    print(prior, "valid:", drawn.valid, "different:", drawn.distinct)
    print(*map(repr, drawn.texts[:3]), sep="\n")

# %% [markdown]
# **Neighbours**: what does this code hold to be alike?

# %%
for near in explorer.neighbours(A, 5):
    print(f"{near.distance:.3f}", repr(near.text))

# %% [markdown]
# ## 5. Your turn
#
# The model itself is `explorer.model`; with it the library's whole interface is there.

# %%
z = explorer.model.encode([A, B])
print(z.shape, explorer.model.decode((z[:1] + z[1:]) / 2))
