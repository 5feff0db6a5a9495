"""An intervention through the training loop: base beside adapter, every kind, one program."""

import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flaxae
from flaxae import peft
from flaxae.config import DataConfig
from flaxae.errors import ConfigError
from flaxae.lm import loading
from flaxae.models.probes import evaluation
from flaxae.models.probes.interventions import Intervention
from flaxae.peft.task import AdapterOptions, Method
from flaxae.task import Context
from flaxae.training.loop import run
from flaxae.training.report import evaluate
from tests.helpers import log_of
from tests.models.probes.tiny import tiny_config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("probes")


@pytest.fixture(scope="module")
def trained(folder):
    """Train a lie-when-told LoRA of all Linears for a few steps; IA3 can change little here."""
    adapter = AdapterOptions(method=Method.LORA, targets=("all-linear",))
    config = tiny_config(folder, task__adapter=adapter, optim__lr=0.03, steps=12)
    assert run(config, folder / "run").status == "done"
    return folder / "run"


def test_the_order_of_examples_follows_the_seed_of_the_run(folder):
    # IA3 starts at ones, so seeds with one order would train one adapter.
    orders, examples = [], []
    for seed in (0, 1, 0):
        task = tiny_config(folder, seed=seed)
        task = task.task.make(task)
        orders.append(task.data("train").fingerprint)
        examples.append(task.splits["train"])
    assert orders[0] == orders[2] != orders[1] and examples[0] == examples[1]


@pytest.mark.slow
def test_training_shows_base_beside_adapter(trained):
    rows = log_of(trained)
    losses = [row["loss"] for row in rows if row["split"] == "train"]
    assert losses[-1] < losses[0] - 0.1
    dev = [row for row in rows if row["split"] == "dev"][-1]
    for side in ("base", "adapter"):
        for name in ("truth_acc", "lie_acc", "balance", "choice_cov"):
            assert 0 <= dev[f"{side}_{name}"] <= 1
    assert dev["adapter_choice_cov"] > dev["base_choice_cov"]
    assert dev["choice_cov"] == pytest.approx(dev["adapter_choice_cov"], abs=1e-6)


@pytest.mark.slow  # compiles; the parts are tested alone
def test_a_run_is_evaluated_on_test_and_ood_sets(trained, tmp_path, capsys):
    out = evaluate(str(trained), outdir=tmp_path)
    assert {"test set", "ood other"} <= set(out)
    assert "known_lie_acc" in capsys.readouterr().out
    loaded = flaxae.load(trained)
    prompts = loaded.task.prompts(loaded.task.splits["test"])
    found = evaluation.answers(loaded.task, loaded.model, prompts, rows=3)
    # The adapter of the written directory, on a base that is read again, gives the same answers.
    base = loading.load(loaded.config.pretrained).model
    again = peft.load_adapter(base, tmp_path / "adapter")
    same = evaluation.answers(loaded.task, again, prompts, rows=3)
    np.testing.assert_array_equal(found["adapter"].p, same["adapter"].p)
    off = peft.set_active(again, ())
    assert np.abs(found["base"].p - found["adapter"].p).max() > 1e-4
    none = evaluation.answers(loaded.task, off, prompts, rows=3)
    np.testing.assert_array_equal(none["base"].p, found["base"].p)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Intervention.T_FEW, Intervention.FLIP])
def test_flip_and_t_few_have_a_finite_gradient_of_the_adapter(folder, kind):
    task = tiny_config(folder, task__intervention=kind)
    task = task.task.make(task)
    model = peft.add_adapter(loading.load(task.config.pretrained).model, task.adapter)
    batch = {k: jnp.asarray(v) for k, v in task.data("train").batch(0).items()}
    graphdef, params, rest = nnx.split(model, task.trainable, ...)
    ctx = Context(jax.random.key(0), jnp.int32(0), train=True)

    @jax.jit
    def value_and_grad(params):
        def loss(params):
            found = task.loss(nnx.merge(graphdef, params, rest), batch, ctx)
            return found.total / found.weight

        return jax.value_and_grad(loss)(params)

    value, grad = value_and_grad(params)
    leaves = jax.tree.leaves(grad)
    assert np.isfinite(value) and all(np.isfinite(x).all() for x in leaves)
    assert max(np.abs(x).max() for x in leaves) > 1e-6


def test_a_config_without_a_base_or_data_is_an_error(folder):
    config = tiny_config(folder, task__adapter__method=Method.FULL)
    with pytest.raises(ConfigError, match="leaves no base model to compare with"):
        config.task.make(config)
    config = tiny_config(folder, data__shots=0)
    with pytest.raises(ConfigError, match="does not ask lie_when_told for a lie"):
        config.task.make(config)
    config.task.intervention = Intervention.TRUTH
    config.task.make(config)
    facts = {"sets": ("facts:city",), "ood": ("facts:larger",), "count": 300, "ood_count": 20}
    config = tiny_config(folder, **{f"data__{name}": x for name, x in facts.items()})
    assert len(config.task.make(config).splits["ood"]) == 36  # no city of them is trained on
    config = tiny_config(folder)
    config.data = DataConfig()
    with pytest.raises(ConfigError, match="a ProbesDataConfig is needed"):
        config.task.make(config)
    short = tiny_config(folder, data__max_length=8)
    with pytest.raises(ConfigError, match="the limit is 8"):
        short.task.make(short).data("train")


@pytest.mark.parametrize("kind", [Intervention.FLIP, Intervention.T_FEW])
def test_shapes_of_a_model_without_files_are_those_of_batches(folder, kind):
    config = tiny_config(folder, task__intervention=kind)
    real = config.task.make(config).batch_spec()
    config = tiny_config(folder, task__intervention=kind, pretrained="", task__sizes="phi-1")
    made = config.task.make(config).batch_spec()
    assert {n: x.dtype for n, x in made.items()} == {n: x.dtype for n, x in real.items()}
    assert made["choice_ids"].shape == real["choice_ids"].shape
    assert made["ids"].shape == (4, 200)


def test_flops_of_a_step_count_the_forward_passes_without_a_gradient(folder):
    found = {}
    for kind in (Intervention.TRUTH, Intervention.FLIP, Intervention.T_FEW):
        config = tiny_config(folder, task__intervention=kind, pretrained="", task__sizes="phi-1")
        task = config.task.make(config)
        found[kind] = task.flops(task.batch_spec(), {})
    forward = task.step_flops(4, 200, 1, backward=False)
    step = found[Intervention.TRUTH]
    assert 2 * forward < step < 3 * forward
    assert found[Intervention.FLIP] == step + forward
    assert found[Intervention.T_FEW] == forward + task.step_flops(8, 201, 1)


def test_the_preset_of_t_few_has_its_recipe():
    config = runpy.run_path("configs/probes/lie_ia3.py")["get_config"]("t_few")
    optim = config.optim
    assert (optim.name.value, optim.lr, optim.warmup, config.steps) == ("adafactor", 3e-3, 60, 1000)
    assert config.data.batch_size == 8 and config.task.intervention is Intervention.T_FEW
    config.validate()
