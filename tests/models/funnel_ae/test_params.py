"""A Funnel AE that starts from the weights of a Hugging Face Funnel."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from flaxae.data.tokenizer import train
from flaxae.errors import ConfigError
from flaxae.lm.funnel import params as funnel_params
from flaxae.lm.funnel.config import FunnelConfig, Head
from flaxae.machine.sharding import make_mesh
from flaxae.models.funnel_ae.latents import Encoding
from flaxae.training.frozen import Frozen
from flaxae.training.loop import run
from flaxae.tree import path_name
from tests.helpers import arrays_of
from tests.models.funnel_ae.tiny import texts, tiny_funnel

SIZES = {"block_sizes": (1, 2), "vocab_size": 300}
LINES = [f"{a}{b} = {a}{b}" for a in "abcdefgh" for b in "jklmnopq"]


def their_config(**options: Any) -> FunnelConfig:
    """Return the config of a Funnel as Hugging Face has it, with a separate first token."""
    return dataclasses.replace(tiny_funnel(**SIZES), separate_cls=True, **options)


def write(path, config):
    rng = np.random.default_rng(7)
    params = jax.tree.map(lambda x: rng.normal(size=x.shape), funnel_params.shapes(config))
    funnel_params.save(path, params, config)
    train(LINES, 290).save(str(path / "tokenizer.json"))
    return path


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """Write a Funnel with a decoder and a head."""
    config = their_config(num_decoder_layers=2, head=Head.MASKED_LM)
    return write(tmp_path_factory.mktemp("funnel"), config)


def config_of(folder, pretrained, **options):
    given = {"pretrained": str(pretrained), "data__tokenizer": str(pretrained), "mesh__fsdp": 1}
    return texts(folder, task__funnel=tiny_funnel(**SIZES), **(given | options))


def start(config):
    """Return the parameters that a run would read, trained and frozen ones."""
    config.freeze()
    frozen = Frozen(config.task.make(config), config, make_mesh(config.mesh), saved=False)
    return frozen.pretrained, frozen.values


def assert_equal(tree, other):
    ours, theirs = (
        {path_name(path): x for path, x in jax.tree_util.tree_leaves_with_path(part)}
        for part in (tree, other)
    )
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        np.testing.assert_array_equal(value, theirs[name], err_msg=name)


def test_encoder_and_embeddings_are_read_and_the_decoder_begins_as_a_copy(
    directory, tmp_path, capsys
):
    params, frozen = start(config_of(tmp_path, directory))
    _, theirs = funnel_params.load(directory, encoder_only=True)
    assert_equal(params["embeddings"], theirs["embeddings"])
    assert_equal(params["encoder"], theirs["encoder"])
    assert_equal(params["decoder"]["blocks"], theirs["encoder"]["blocks"])
    assert not jax.tree.leaves(frozen)
    line = next(x for x in capsys.readouterr().err.splitlines() if "not used" in x)
    assert "decoder.layers.0, funnel.decoder.layers.1, lm_head" in line


def test_a_shared_decoder_has_no_blocks_of_its_own(directory, tmp_path):
    params, _ = start(config_of(tmp_path, directory, task__share=True))
    _, theirs = funnel_params.load(directory, encoder_only=True)
    assert "decoder" not in params
    assert_equal(params["encoder"], theirs["encoder"])


def test_a_frozen_encoder_is_read_and_the_decoder_is_trained(directory, tmp_path):
    params, frozen = start(config_of(tmp_path, directory, task__latent__encoding=Encoding.FROZEN))
    _, theirs = funnel_params.load(directory, encoder_only=True)
    assert "encoder" not in params
    assert_equal(frozen["encoder"], theirs["encoder"])
    assert_equal(params["decoder"]["blocks"], theirs["encoder"]["blocks"])


@pytest.mark.slow
def test_a_run_starts_from_a_base_model(tmp_path, capsys):
    base = write(tmp_path / "base", their_config())
    config = config_of(tmp_path, base, steps=1, optim__lr=1e-12, eval__splits=())
    run(config, tmp_path / "run")
    printed = capsys.readouterr().out
    assert "upsamplers" in printed and "encoder/" not in printed  # newly initialised parts
    names = arrays_of(tmp_path / "run")
    _, theirs = funnel_params.load(base)
    kernel = theirs["encoder"]["blocks"][1]["rest"]["mlp"]["wi"]["kernel"]
    for part in ("encoder", "decoder"):
        found = f"['params']['{part}']['blocks']['1']['rest']['mlp']['wi']['kernel']"
        np.testing.assert_allclose(names[found], kernel, atol=1e-6)
    table = names["['params']['embeddings']['tokens']['table']"]
    np.testing.assert_allclose(table, theirs["embeddings"]["tokens"]["table"], atol=1e-6)


def test_other_sizes_than_those_of_the_checkpoint_are_refused(directory, tmp_path):
    sizes = SIZES | {"d_ff": 32, "block_sizes": (1, 1)}
    config = config_of(tmp_path, directory)
    config.task.funnel = tiny_funnel(**sizes)
    with pytest.raises(ConfigError, match=r"d_ff: 32, not 24; block_sizes: \(1, 1\), not \(1, 2\)"):
        start(config)


def change(folder, edit):
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors")


NAME = "encoder.blocks.1.1.ffn.linear_1.weight"


@pytest.mark.parametrize(
    "edit, message",
    [
        (lambda w: w.pop(NAME), rf"{NAME} is missing"),
        (lambda w: w.update({"encoder.more": w[NAME]}), "encoder.more is not a weight"),
        (lambda w: w.update({NAME: w[NAME][:, :-1].copy()}), rf"{NAME} is \(24, 15\)"),
    ],
    ids=["missing", "extra", "misshapen"],
)
def test_wrong_weights_are_named(tmp_path, edit, message):
    base = write(tmp_path / "base", their_config())
    change(base, edit)
    with pytest.raises(ConfigError, match=message):
        start(config_of(tmp_path, base))


def test_a_pickle_is_refused_with_the_recipe_to_convert_it(tmp_path):
    base = write(tmp_path / "base", their_config())
    (base / "model.safetensors").rename(base / "pytorch_model.bin")
    recipe = r"transformers\.FunnelBaseModel\.from_pretrained\(DIR\)\.save_pretrained\(NEW_DIR\)"
    with pytest.raises(ConfigError, match=rf"pytorch_model\.bin.*{recipe}"):
        start(config_of(tmp_path, base))


def test_the_tokenizer_must_be_the_models_own(directory, tmp_path):
    config = config_of(tmp_path, directory, data__tokenizer="")
    with pytest.raises(ConfigError, match=f"Set data.tokenizer={directory}, the model's own"):
        _ = config.task.make(config).text
    train([x[::-1] for x in LINES], 290).save(str(tmp_path / "other" / "tokenizer.json"))
    config = config_of(tmp_path, directory)
    config.data.tokenizer = str(tmp_path / "other")
    with pytest.raises(ConfigError, match=f"set data.tokenizer={directory}"):
        _ = config.task.make(config).text
    config = config_of(tmp_path, directory)
    config.task.funnel = tiny_funnel(**SIZES | {"vocab_size": 260})
    with pytest.raises(ConfigError, match="an embedding of 260"):
        _ = config.task.make(config).text


def test_embeddings_follow_the_ids_of_a_wordpiece_tokenizer(tmp_path):
    base = write(tmp_path / "base", their_config())
    (base / "tokenizer.json").unlink()
    vocab = ["<pad>", "[unused0]", "[unused1]", *(f"w{i}" for i in range(280))]
    vocab += ["<unk>", "<cls>", "<sep>", "<mask>", "<s>", "</s>"]
    (base / "vocab.txt").write_text("\n".join(vocab) + "\n")
    config = config_of(tmp_path, base)
    (tmp_path / "lines.txt").write_text("\n".join(f"w{i} w{i + 9}" for i in range(90)))
    params, _ = start(config)
    _, theirs = funnel_params.load(base)
    tokenizer = config.task.make(config).text.tokenizer
    ours, table = params["embeddings"]["tokens"]["table"], theirs["embeddings"]["tokens"]["table"]
    ids = tokenizer.encode(["w0 w7"])[0]
    wanted = [vocab.index(x) for x in ("w0", "w7", "<sep>", "<pad>", "<unk>")]
    np.testing.assert_array_equal(ours[np.asarray([*ids, 1, 0, 2])], table[np.asarray(wanted)])
    np.testing.assert_array_equal(ours[len(vocab) :], table[len(vocab) :])
