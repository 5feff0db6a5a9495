"""A T5-VAE that starts from the weights of a T5."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxae.config import set_field, to_json
from flaxae.data.tokenizer import train
from flaxae.errors import ConfigError
from flaxae.lm.t5 import params as t5_params
from flaxae.machine.sharding import make_mesh
from flaxae.storage.workdir import write_json
from flaxae.training import restore
from flaxae.training.frozen import Frozen
from flaxae.training.hparams import make_hparams
from flaxae.training.state import abstract_state
from flaxae.weights import hf
from tests.models.t5_vae.tiny import tiny_config


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """Write a T5 of the tiny config's sizes as a Hugging Face directory."""
    path = tmp_path_factory.mktemp("t5")
    config = tiny_config(task__t5__vocab_size=40).task.t5
    rng = np.random.default_rng(7)
    params = jax.tree.map(lambda x: rng.normal(size=x.shape), t5_params.shapes(config))
    t5_params.save(path, params, config)
    return path


def start(config):
    """Return the state that the loop would start from, and its source."""
    task, mesh = config.task.make(config), make_mesh(config.mesh)
    frozen = Frozen(task, config, mesh, saved=False)
    read = frozen.pretrained
    with jax.set_mesh(mesh):
        abstract = abstract_state(task, config, mesh)
        setup = SimpleNamespace(
            config=config,
            task=task,
            frozen=frozen,
            lanes=0,
            main=True,
            shapes=abstract,
            shardings=jax.tree.map(lambda x: x.sharding, abstract),
            hparams=make_hparams(task, [config], lanes=False),
            checkpointer=SimpleNamespace(restore=lambda abstract: None),
        )
        state, _ = restore.restore_or_init(setup)  # pyright: ignore
    assert frozen.pretrained == {}
    return state, read


def test_t5_weights_are_read_and_all_others_initialised(directory, capsys, monkeypatch):
    monkeypatch.setattr("flaxae.machine.sharding.MIN_SPLIT", 1)
    state, read = start(tiny_config(pretrained=str(directory), mesh__fsdp=8))
    _, expected = t5_params.load(directory)
    jax.tree.map(np.testing.assert_array_equal, state["params"]["t5"], expected)
    kernel = state["params"]["t5"]["encoder"]["blocks"]["mlp"]["wo"]["kernel"]
    assert kernel.addressable_shards[0].data.size * 8 == kernel.size
    # It was read onto the devices where it is trained: the host never had all of it.
    assert kernel.sharding == read["t5"]["encoder"]["blocks"]["mlp"]["wo"]["kernel"].sharding
    output = capsys.readouterr().out
    assert "memory/kernel" in output and "dropped: none" in output and "t5/" not in output


def test_t5_of_other_sizes_raises(directory):
    with pytest.raises(ConfigError, match=r"num_heads: 1, not 2; num_layers: 3, not 2\)") as error:
        start(tiny_config(pretrained=str(directory), task__t5__num_layers=3, task__t5__num_heads=1))
    assert "d_model" not in str(error.value)


def test_free_fields_may_differ(directory):
    wanted = tiny_config(task__t5__vocab_size=40).task.t5
    wanted.remat, wanted.dropout, wanted.dtype = True, 0.1, "bfloat16"
    theirs, tensors = t5_params.open_directory(directory)
    assert isinstance(tensors, hf.Tensors)
    assert t5_params.differences(wanted, theirs) == []
    assert t5_params.shapes(wanted)["embedding"]["table"].dtype == jnp.float32


def test_saved_run_does_not_read_the_files_again(tmp_path):
    config = tiny_config(pretrained=str(tmp_path / "gone"))
    frozen = Frozen(config.task.make(config), config, make_mesh(config.mesh), saved=True)
    assert frozen.pretrained == {} and frozen.fingerprint == ""


def test_tokenizer_must_be_the_t5s_own(tmp_path):
    lines = [f"{a}{b} = {a}{b}" for a in "abcdefgh" for b in "jklmnopq"]
    (tmp_path / "lines.txt").write_text("\n".join(lines))
    made = {"own": train(lines, 280), "other": train([x[::-1] for x in lines], 280)}
    assert made["own"].vocab_size == made["other"].vocab_size
    for name, tokenizer in made.items():
        tokenizer.save(tmp_path / name / "tokenizer.json")

    def task_of(tokenizer):
        config = tiny_config(
            pretrained=str(tmp_path / "own"),
            data__tokenizer=str(tmp_path / tokenizer),
            data__path=str(tmp_path / "lines.txt"),
            data__cache="",
            task__t5__vocab_size=384,
        )
        return config.task.make(config)

    assert task_of("own").text.tokenizer.vocab == made["own"].vocab
    with pytest.raises(ConfigError, match=f"set data.tokenizer={tmp_path / 'own'}"):
        _ = task_of("other").text
    # A run continues with its own tokenizer, even if the T5's files are gone.
    made["own"].save(tmp_path / "run" / "tokenizer.json")
    (tmp_path / "own" / "tokenizer.json").unlink()
    (tmp_path / "own").rmdir()
    task = task_of("own")
    task.load_assets(str(tmp_path / "run"))
    assert task.text.tokenizer.vocab == made["own"].vocab


def test_without_the_name_of_its_tokenizer_a_t5_is_refused(tmp_path):
    """A tokenizer trained on the texts would give the T5's embeddings other tokens."""
    lines = [f"{a}{b} = {a}{b}" for a in "abcdefgh" for b in "jklmnopq"]
    (tmp_path / "lines.txt").write_text("\n".join(lines))
    (tmp_path / "t5").mkdir()

    def text(**given):
        config = tiny_config(
            pretrained=str(tmp_path / "t5"), data__path=str(tmp_path / "lines.txt"), data__cache=""
        )
        for name, value in ({"task.t5.vocab_size": 384} | given).items():
            set_field(config, name, value)
        return config.task.make(config).text

    with pytest.raises(ConfigError, match=r"data\.tokenizer is empty.*t5 contains none.*a spiece"):
        text()
    own = train(lines, 280)
    own.save(tmp_path / "t5" / "tokenizer.json")
    with pytest.raises(ConfigError, match=f"Set data.tokenizer={tmp_path / 't5'}, the model's own"):
        text()
    assert text(**{"data.tokenizer": str(tmp_path / "t5")}).tokenizer.vocab == own.vocab


def test_resume_from_a_run_with_another_tokenizer_is_refused(tmp_path):
    lines = [f"{a}{b} = {a}{b}" for a in "abcdefgh" for b in "jklmnopq"]
    (tmp_path / "lines.txt").write_text("\n".join(lines))
    (tmp_path / "other.txt").write_text("\n".join(line[::-1] for line in lines))

    def config_for(name, **given):
        path = str(tmp_path / f"{name}.txt")
        return tiny_config(data__path=path, data__cache="", data__vocab_size=280, **given)

    first = config_for("lines")
    task = first.task.make(first)
    (tmp_path / "w").mkdir()
    write_json(tmp_path / "w" / "config.json", to_json(first))
    source = {"resume_from": str(tmp_path / "w")}

    def text(name, **given):
        config = config_for(name, **source, **given)
        return config.task.make(config).text

    with pytest.raises(ConfigError, match="has no tokenizer.json"):
        text("lines")
    task.save_assets(str(tmp_path / "w"))
    kept = tmp_path / "w" / "tokenizer.json"
    assert text("lines").tokenizer.vocab == task.text.tokenizer.vocab
    with pytest.raises(ConfigError, match=f"another tokenizer.*set data.tokenizer={kept}"):
        text("other")
    assert text("other", data__tokenizer=str(kept)).tokenizer.vocab == task.text.tokenizer.vocab
    # Another number of rows: the embedding is not taken.
    assert text("other", task__t5__vocab_size=300).tokenizer.vocab != task.text.tokenizer.vocab
