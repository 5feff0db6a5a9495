"""Losses, gradients and steps of SAELens' training equal ours.

They need a separate environment, which `make test-sae-parity` makes.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxae.models.sae import few_latents, losses
from flaxae.models.sae.options import Architecture, Auxiliary, Gate, LossOptions, Sparsity
from flaxae.models.sae.synthetic import KnownFeatures, Trainer
from flaxae.sparse_autoencoder.modules import Activation, SAEConfig
from flaxae.sparse_autoencoder.parameters import build, values
from tests.sparse_autoencoder.tiny_dictionaries import D, K, X, arrays, context

pytestmark = pytest.mark.sae_parity
WEIGHT = 0.3
F = 128  # so many that top-k computes with the few active ones, as in a real training
FREE = {"rescale_by_decoder_norm": True}
RAW = {"apply_b_dec_to_input": False}
TOPK = {"activation": Activation.TOPK, "k": K} | FREE
BATCH = {"activation": Activation.BATCH_TOPK, "k": K} | FREE
JUMP = {"activation": Activation.JUMPRELU, "bandwidth": 0.7}
THEIR_JUMP = {"l0_coefficient": WEIGHT, "jumprelu_bandwidth": 0.7}
AUXK = {"auxiliary": Auxiliary.SAELENS}
# name -> (their architecture, their config, our architecture, our dictionary, our loss)
CASES = {
    "standard": ("standard", {"l1_coefficient": WEIGHT}, Architecture.STANDARD, {}, {}),
    "standard_raw": ("standard", RAW, Architecture.STANDARD, {"subtract_b_dec": False}, {}),
    "gated": (
        "gated",
        {},
        Architecture.GATED,
        {"activation": Activation.GATED},
        {"gate": Gate.SAELENS},
    ),
    "topk": ("topk", {"k": K}, Architecture.TOPK, TOPK, AUXK),
    "topk_fixed": (
        "topk",
        {"k": K, "rescale_acts_by_decoder_norm": False, "aux_loss_coefficient": 0.5},
        Architecture.TOPK,
        TOPK | {"rescale_by_decoder_norm": False},
        AUXK | {"auxiliary_weight": 0.5},
    ),
    "batch_topk": ("batchtopk", {"k": K}, Architecture.BATCH_TOPK, BATCH, AUXK),
    "matryoshka": (
        "matryoshka_batchtopk",
        {"k": K, "matryoshka_widths": [4, 10, F]},
        Architecture.MATRYOSHKA,
        BATCH,
        AUXK | {"widths": (4, 10, F)},
    ),
    "jumprelu": ("jumprelu", THEIR_JUMP, Architecture.JUMPRELU, JUMP, {}),
    "jumprelu_tanh": (
        "jumprelu",
        THEIR_JUMP | RAW | {"jumprelu_sparsity_loss_mode": "tanh", "pre_act_loss_coefficient": 0.2},
        Architecture.JUMPRELU,
        JUMP | {"subtract_b_dec": False},
        {"jump": Sparsity.TANH, "pre_activation": 0.2},
    ),
    "jumprelu_quadratic": (
        "jumprelu",
        THEIR_JUMP | {"jumprelu_sparsity_loss_mode": "quadratic", "target_l0": 3.0},
        Architecture.JUMPRELU,
        JUMP,
        {"jump": Sparsity.QUADRATIC, "target_l0": 3.0},
    ),
}


def theirs(case, p, dead):
    """Return SAELens' loss and gradients."""
    import torch
    from sae_lens.saes.sae import TrainStepInput

    from benchmarks.torch_sae_lens import parameters, set_parameters, training_sae

    architecture, fields, *_ = CASES[case]
    sae = training_sae(architecture, d_in=D, d_sae=F, **fields)
    set_parameters(sae, p)
    at = TrainStepInput(
        sae_in=torch.from_numpy(X),
        coefficients=dict.fromkeys(sae.get_coefficients(), WEIGHT),
        dead_neuron_mask=torch.from_numpy(dead),
        n_training_steps=0,
        is_logging_step=False,
    )
    out = sae.training_forward_pass(at)
    out.loss.backward()
    found = {n: x.grad for n, x in parameters(sae).items()}
    return out.loss.item(), {n: 0 if g is None else g.numpy() for n, g in found.items()}


@pytest.mark.parametrize("count", [0, 2, F // 2])
@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradient_equal_saelens(case, count):
    """`count` latents are dead: fewer than k_aux, which is 3, and more."""
    _, _, architecture, fields, options = CASES[case]
    config = SAEConfig(D, F, **fields)
    p = arrays(config)
    sae, dead = build(config, p), np.arange(F) < count
    selects = config.activation in (Activation.TOPK, Activation.BATCH_TOPK)
    assert few_latents.supported(sae, context(train=True)) == selects
    if config.activation is Activation.BATCH_TOPK:
        del p["threshold"]  # not a parameter
    graphdef, state, rest = nnx.split(sae, nnx.Param, ...)

    def loss(params):
        model = nnx.merge(graphdef, params, rest)
        rows = jnp.ones(len(X))
        made = LossOptions(sparsity=WEIGHT, **options)
        at = (jnp.asarray(X), jnp.asarray(X), rows, context(train=True))
        found = losses.dictionary_loss(model, architecture, made, *at, dead=jnp.asarray(dead))
        return found.total / len(X)

    value, grads = jax.jit(jax.value_and_grad(loss))(state)
    want, want_grads = theirs(case, p, dead)
    np.testing.assert_allclose(value, want, rtol=1e-5)
    for name, grad in nnx.to_pure_dict(grads).items():
        # Rounding errors of small entries are those of the large ones that are added up in them.
        atol = 1e-5 * np.abs(want_grads[name]).max()
        np.testing.assert_allclose(grad, want_grads[name], rtol=1e-4, atol=atol, err_msg=name)


def config_of(architecture, steps, rows):
    """Return a config with the hyperparameters of SAELens' defaults."""
    from benchmarks.torch_sae_lens import our_config

    fields = {
        "task.d_sae": 128,
        "task.k": 4.0,
        "task.dead_after": 4 * rows,
        "task.loss.sparsity": WEIGHT,
        "steps": steps,
    }
    if architecture == "matryoshka":
        fields["task.loss.widths"] = (8, 128)
    if architecture == "jumprelu":
        fields |= {"task.loss.target_l0": 4.0, "task.threshold": 0.05}
    return our_config(architecture, fields)


THEIR_STEPS = {
    "standard": ("standard", RAW | {"l1_coefficient": WEIGHT}),
    "gated": ("gated", {"l1_coefficient": WEIGHT}),
    "topk": ("topk", {"k": 4}),
    "batch_topk": ("batchtopk", {"k": 4}),
    "matryoshka": ("matryoshka_batchtopk", {"k": 4, "matryoshka_widths": [8, 128]}),
    "jumprelu": (
        "jumprelu",
        RAW
        | {
            "l0_coefficient": WEIGHT,
            "jumprelu_sparsity_loss_mode": "quadratic",
            "target_l0": 4.0,
            "jumprelu_init_threshold": 0.05,
        },
    ),
}


@pytest.mark.parametrize("kind", THEIR_STEPS)
def test_steps_from_the_same_weights_give_the_same_weights(kind):
    """Latents die after 3 steps, the gradient is clipped, thresholds are kept above 0."""
    from benchmarks.torch_sae_lens import parameters, set_parameters, step, trainer, training_sae

    steps, rows, source = 12, 64, KnownFeatures(count=24, width=16)
    ours = Trainer(config_of(kind, steps, rows), source.width)
    architecture, fields = THEIR_STEPS[kind]
    sae = training_sae(architecture, d_in=16, d_sae=128, **fields)
    mine = values(ours.dictionary())
    selects = kind in ("topk", "batch_topk", "matryoshka")
    assert few_latents.supported(ours.dictionary(), context(train=True)) == selects
    start = {n: x for n, x in mine.items() if x.ndim}
    set_parameters(sae, start)
    batches = [source.batch(i, rows).x for i in range(steps)]
    side = trainer(sae, iter(batches), rows=rows, steps=steps, lr=1e-3, dead_window=3)
    for batch in batches:
        ours.step(batch)
        step(side)
    assert 0 < int(side.dead_neurons.sum()) or kind in ("standard", "gated", "jumprelu")
    found = values(ours.dictionary())
    for name, x in parameters(sae).items():
        got = x.detach().numpy()
        assert np.abs(found[name] - start[name]).max() > 1e-3, name
        np.testing.assert_allclose(found[name], got, rtol=0, atol=2e-4, err_msg=name)
