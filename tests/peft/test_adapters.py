"""Adapters on a stack: their outputs, their gradients, merging, and their number of parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from flaxae import peft
from flaxae.errors import ConfigError
from flaxae.nn.linear import Linear, dropout
from flaxae.peft.lora import LoRA, output_norms, updated_norms
from flaxae.task import Taps
from tests.peft.tiny import (
    BATCH,
    LAYERS,
    WIDTH,
    Net,
    context,
    inputs,
    loss_of,
    moved,
    run,
    run_t5,
    t5,
)

TARGETS = ("up", "down")
CONFIGS = {
    "lora": peft.LoRAConfig(r=2, lora_alpha=6, target_modules=TARGETS),
    "rslora": peft.LoRAConfig(r=4, lora_alpha=6, use_rslora=True, target_modules=TARGETS),
    "dora": peft.LoRAConfig(r=2, lora_alpha=6, use_dora=True, target_modules=("up",)),
    "ia3": peft.IA3Config(target_modules=TARGETS, feedforward_modules=("down",)),
    "bias": peft.BiasConfig(),
    "norms": peft.BiasConfig(norms=True),
    "saved": peft.LoRAConfig(r=2, target_modules=TARGETS, modules_to_save=["head", "final_norm"]),
    "some layers": peft.LoRAConfig(
        r=3,
        target_modules=("up",),
        layers_to_transform=[0, 2],
        layers_pattern="blocks",
        rank_pattern={"blocks.2.up": 1},
    ),
    "dora, some layers": peft.LoRAConfig(
        r=3, target_modules=("up",), layers_to_transform=[1], layers_pattern="blocks", use_dora=True
    ),
    "ia3, some layers": peft.IA3Config(target_modules=("blocks.1.up",), feedforward_modules=()),
}
ZEROS = {"adapter_scale": {"default": jnp.zeros(BATCH)}}


def trained(name, model=None):
    """Return a model with an adapter whose parameters are moved, as training does."""
    model = peft.add_adapter(model or Net(), CONFIGS[name], seed=3)
    model = moved(model, peft.AdapterParam)
    return with_zero_padding(model)


def with_zero_padding(model):
    for _, module in nnx.iter_modules(model):
        if isinstance(module, LoRA) and module.A.ndim == 3:
            rank = jnp.arange(module.A.shape[-1])
            real = rank[None] < jnp.asarray(module.ranks)[:, None]
            module.A[...] = jnp.where(real[:, None, :], module.A[...], 0)
            module.B[...] = jnp.where(real[:, :, None], module.B[...], 0)
    return model


@pytest.mark.parametrize("name", CONFIGS)
def test_a_new_adapter_does_not_change_the_output_and_a_trained_one_does(name):
    base = Net()
    new = peft.add_adapter(base, CONFIGS[name])
    np.testing.assert_allclose(run(new), run(base), atol=1e-6)
    assert np.abs(run(trained(name)) - run(base)).max() > 0.05


@pytest.mark.parametrize("name", CONFIGS)
def test_each_row_has_its_own_scale(name):
    """Mix rows in a batch: scale 0 equals the base bit for bit, scale 1 the adapter."""
    base, model = run(Net()), trained(name)
    all_on = run(model)
    np.testing.assert_array_equal(run(model, **ZEROS), base)
    mixed = run(model, adapter_scale={"default": jnp.asarray([0.0, 1.0, 0.0, 1.0])})
    np.testing.assert_array_equal(mixed[::2], base[::2])
    np.testing.assert_allclose(mixed[1::2], all_on[1::2], atol=1e-6)
    half = run(model, adapter_scale={"default": jnp.full(BATCH, 0.5)})
    assert np.abs(half - base).max() > 1e-3 and np.abs(half - all_on).max() > 1e-3


def test_rows_of_scale_0_equal_the_base_even_if_the_adapter_is_infinite():
    model = trained("lora")
    model.blocks.up.adapters["default"].B[...] = jnp.full((LAYERS, 2, 2 * WIDTH), jnp.inf)
    np.testing.assert_array_equal(run(model, **ZEROS), run(Net()))


@pytest.mark.parametrize("name", CONFIGS)
def test_merging_is_exact_and_leaves_the_model_unchanged(name):
    model = trained(name)
    before, fingerprint = run(model), peft.base_fingerprint(model)
    merged = peft.merge(model)
    np.testing.assert_allclose(run(merged), before, atol=2e-5)
    assert nnx.split(merged)[0] == nnx.split(Net())[0]  # plain layers
    assert peft.base_fingerprint(merged) != fingerprint == peft.base_fingerprint(Net())
    np.testing.assert_array_equal(run(model), before)
    bare = peft.remove_adapter(model, "default")
    np.testing.assert_array_equal(run(bare), run(Net()))
    assert nnx.split(bare)[0] == nnx.split(Net())[0]


def test_several_adapters_are_added_activated_and_disabled():
    a = CONFIGS["lora"]
    model = peft.add_adapter(trained("lora"), CONFIGS["ia3"], "other", seed=1)
    model = moved(model, peft.trainable("other"), seed=7)
    lora, ia3 = run(peft.set_active(model, "default")), run(peft.set_active(model, ("other",)))
    np.testing.assert_array_equal(lora, run(trained("lora")))
    np.testing.assert_array_equal(run(peft.set_active(model, ())), run(Net()))
    scale = {"default": jnp.asarray([1.0, 0, 0, 1]), "other": jnp.asarray([0.0, 1, 0, 0])}
    mixed = run(peft.set_active(model, ()), adapter_scale=scale)
    for row, want in enumerate((lora, ia3, run(Net()), lora)):
        np.testing.assert_allclose(mixed[row], want[row], atol=1e-6)
    assert peft.adapter_names(model) == ("default", "other")
    assert peft.adapter_configs(model)["default"] == a
    assert peft.adapter_names(peft.remove_adapter(model, "default")) == ("other",)
    with pytest.raises(ConfigError, match="no adapter 'typo'; there are default, other"):
        peft.set_active(model, "typo")
    with pytest.raises(ConfigError, match="no adapter 'typo'; there are default, other"):
        run(model, adapter_scale={"typo": jnp.zeros(BATCH)})
    with pytest.raises(ConfigError, match="there is an adapter 'other'"):
        peft.add_adapter(model, a, "other")
    merged = peft.merge(model, "default")
    np.testing.assert_allclose(run(merged), lora, atol=2e-5)
    with pytest.raises(ConfigError, match="IA3 and LoRA of several adapters cannot be merged"):
        peft.merge(model)


def test_adding_an_adapter_leaves_the_given_model_unchanged():
    base = Net()
    graphdef = nnx.split(base)[0]
    model = peft.add_adapter(base, CONFIGS["saved"])
    assert nnx.split(base)[0] == graphdef and not peft.adapter_names(base)
    assert model.blocks.up.kernel[...] is base.blocks.up.kernel[...]  # shared, not copied
    peft.add_adapter(model, CONFIGS["ia3"], "other")
    assert peft.adapter_names(model) == ("default",)


def test_lora_is_initialised_as_in_peft():
    """Check for U(-1 / sqrt(in), 1 / sqrt(in)), drawn separately for layers and modules."""
    config = peft.LoRAConfig(r=512, target_modules=TARGETS)
    model = peft.add_adapter(Net(), config)
    for module, width in ((model.blocks.up, WIDTH), (model.blocks.down, 2 * WIDTH)):
        lora = module.adapters["default"]
        a, bound = np.asarray(lora.A[...]), width**-0.5
        assert a.shape == (LAYERS, width, 512) and not np.any(lora.B[...])
        assert np.abs(a).max() <= bound and np.abs(a).max() > 0.99 * bound
        np.testing.assert_allclose(a.std(), bound / 3**0.5, rtol=0.03)
        assert abs(a.mean()) < 0.02 * bound
        assert np.abs(a[0] - a[1]).max() > 0.1 * bound
        assert lora.scaling == 8 / 512
    other = peft.add_adapter(Net(), config, seed=1)
    assert (
        np.abs(
            other.blocks.up.adapters["default"].A[...]
            - np.asarray(model.blocks.up.adapters["default"].A[...])
        ).max()
        > 0.1
    )
    assert peft.LoRAConfig(r=16, lora_alpha=8, use_rslora=True).scaling(16, 8) == 2


def test_doras_norm_equals_the_direct_computation():
    keys = jax.random.split(jax.random.key(0), 3)
    kernel, a, b = (
        jax.random.normal(k, s) for k, s in zip(keys, ((7, 5), (7, 3), (3, 5)), strict=True)
    )
    direct = jnp.linalg.norm(kernel + 0.7 * a @ b, axis=0)
    np.testing.assert_allclose(updated_norms(kernel, a, b, 0.7), direct, rtol=1e-5)
    np.testing.assert_allclose(output_norms(kernel), jnp.linalg.norm(kernel, axis=0), rtol=1e-6)


@pytest.mark.parametrize("train", [True, False])
def test_dora_drops_the_input_of_the_base_too_as_peft_does(train):
    """Compute m W' / |W'| x by hand, W' = W + scaling A B, with the same dropped inputs."""
    base = Linear(WIDTH, 6, use_bias=True, rngs=nnx.Rngs(0))
    base.bias[...] = jnp.arange(6.0)
    key = jax.random.key(1)
    lora = LoRA(base, (2,), (1.5,), stacked=False, dropout_rate=0.5, dora=True, key=key)
    assert lora.magnitude is not None
    lora.B[...] = jax.random.normal(key, (2, 6))
    lora.magnitude[...] = jnp.arange(1.0, 7.0)
    x, ctx = jax.random.normal(jax.random.key(2), (BATCH, WIDTH)), context(train=train)
    raw = base(x, context())
    dropped = dropout(x, 0.5, ctx.at("dropout"))
    assert bool(jnp.any(dropped != x)) == train
    kernel = base.kernel[...]
    updated = kernel + 1.5 * lora.A[...] @ lora.B[...]
    scale = lora.magnitude[...] / jnp.linalg.norm(updated, axis=0)
    # The base's own output is not dropped; what DoRA adds to it is.
    want = raw + dropped @ (updated * scale[None] - kernel)
    np.testing.assert_allclose(lora.after(base, x, raw, raw, None, ctx), want, atol=1e-5)


def test_doras_norm_gets_no_gradient():
    """Compare finite differences: they equal the gradient of the magnitude, but not that of B."""
    loss, params = loss_of(trained("dora"), peft.AdapterParam)
    grads, step = jax.jit(jax.grad(loss))(params), 1e-2
    leaf = ("blocks", "up", "adapters", "default")

    def slope(name, at):
        def moved_by(size):
            flat = dict(nnx.to_flat_state(params))
            value = flat[(*leaf, name)]
            flat[(*leaf, name)] = value.replace(value[...].at[at].add(size))
            return float(loss(nnx.State.from_flat_path(flat)))

        return (moved_by(step) - moved_by(-step)) / (2 * step)

    flat = dict(nnx.to_flat_state(grads))
    for at in ((0, 0), (1, 3)):
        exact = float(flat[(*leaf, "magnitude")][...][at])
        assert abs(slope("magnitude", at) - exact) < 0.02 * (1 + abs(exact))
    gaps = [
        abs(slope("B", at) - float(flat[(*leaf, "B")][...][at])) for at in ((0, 0, 0), (1, 1, 2))
    ]
    assert max(gaps) > 0.1


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_padding_of_ranks_stays_zero_in_training(optimizer):
    model = peft.add_adapter(Net(), CONFIGS["some layers"])
    loss, params = loss_of(model, peft.trainable())
    tx = {"adamw": optax.adamw(1e-2, weight_decay=0.1), "muon": optax.contrib.muon(1e-2)}[optimizer]
    grad = jax.jit(jax.grad(loss))
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        opt = tx.init(params)
        for _ in range(2):
            updates, opt = tx.update(grad(params), opt, params)
            params = optax.apply_updates(params, updates)
    values = {path[-1]: np.asarray(v[...]) for path, v in nnx.to_flat_state(params)}
    assert model.blocks.up.adapters["default"].ranks == (3, 0, 1)
    a, b = values["A"], values["B"]
    assert not a[1].any() and not b[1].any() and not a[2, :, 1:].any() and not b[2, 1:].any()
    assert b[0].any() and b[2, 0].any()


@pytest.mark.parametrize("name", ["dora, some layers", "ia3, some layers"])
def test_layers_without_an_adapter_get_no_gradient(name):
    loss, params = loss_of(trained(name), peft.trainable())
    for grad in jax.tree.leaves(jax.jit(jax.grad(loss))(params)):
        assert grad[1].any() and not grad[0].any() and not grad[2].any()


def test_lora_dropout_is_unbiased_and_only_applied_in_training():
    config = peft.LoRAConfig(r=2, lora_dropout=0.5, target_modules=TARGETS)
    model = moved(peft.add_adapter(Net(), config), peft.AdapterParam)
    plain = run(model)
    graphdef, state = nnx.split(model)
    draw = jax.jit(jax.vmap(lambda k: nnx.merge(graphdef, state)(inputs(), context(k, train=True))))
    draws = np.asarray(draw(jnp.arange(200)))
    assert np.abs(draws[0] - plain).max() > 1e-3 and np.abs(draws[0] - draws[1]).max() > 1e-3
    # The first block's input has no noise, so there the mean over draws is the plain value.
    taps = Taps(collect=lambda path: path.endswith("up.out"))

    def first(key):
        taps = Taps(collect=lambda path: path.endswith("up.out"))
        nnx.merge(graphdef, state)(inputs(), context(key, train=True, taps=taps))
        return taps.collected["blocks.up.out"][0]

    model(inputs(), context(taps=taps))
    made = np.asarray(jax.jit(jax.vmap(first))(jnp.arange(400)))
    want = np.asarray(taps.collected["blocks.up.out"][0])
    spread = made.std(0) / 20
    assert (np.abs(made.mean(0) - want) < 5 * spread + 1e-6).all()


@pytest.mark.parametrize("name", ["lora", "dora", "ia3", "bias", "saved"])
def test_a_bfloat16_base_stays_bfloat16(name):
    base = Net()
    for _, module in nnx.iter_modules(base):
        if hasattr(module, "kernel"):
            module.kernel = nnx.Param(module.kernel[...].astype(jnp.bfloat16))
            module.dtype = jnp.dtype(jnp.bfloat16)
    model = trained(name, base)
    taps = Taps(collect=lambda path: path.endswith("up.out"))
    model(inputs(), context(taps=taps))
    seen = taps.collected["blocks.up.out"]
    assert seen.dtype == jnp.bfloat16
    params = jax.tree.leaves(nnx.state(model, peft.AdapterParam))
    assert params and all(p.dtype == jnp.float32 for p in params)
    assert np.abs(run(model).astype(np.float32) - run(base).astype(np.float32)).max() > 0.05
    np.testing.assert_array_equal(run(model, **ZEROS), run(base))
    assert peft.merge(model).blocks.up.kernel.dtype == jnp.bfloat16


def test_taps_record_the_adapted_output_and_remat_works():
    model = trained("lora")
    taps = Taps(collect=lambda path: path.endswith("up.out"))
    model(inputs(), context(taps=taps))
    (value,) = taps.collected.values()
    base_taps = Taps(collect=lambda path: path.endswith("up.out"))
    Net()(inputs(), context(taps=base_taps))
    (plain,) = base_taps.collected.values()
    assert value.shape[0] == LAYERS and np.abs(value - plain).max() > 0.05
    np.testing.assert_allclose(run(trained("lora", Net(remat=True))), run(model), atol=1e-6)


def test_a_t5s_rows_have_their_own_scales():
    model = moved(peft.add_adapter(t5(), peft.IA3Config()), peft.AdapterParam)
    base, on = run_t5(t5()), run_t5(model)
    scale = jnp.asarray([1.0, 0, 0.5])
    rows = peft.RowScale(scale, ((3, 6),), ((3, 4),))
    mixed = run_t5(model, adapter_scale={"default": rows})
    np.testing.assert_array_equal(mixed[1], base[1])
    np.testing.assert_allclose(mixed[0], on[0], atol=1e-5)
    assert np.abs(mixed - base).max((1, 2))[[0, 2]].min() > 1e-2 < np.abs(mixed - on)[2].max()
    with pytest.raises(ConfigError, match="flaxae.peft.RowScale"):
        run_t5(model, adapter_scale={"default": scale})
    with pytest.raises(ConfigError, match="a layer has 12 tokens"):
        run_t5(model, adapter_scale={"default": peft.RowScale(scale, ((3, 6),))})
    with pytest.raises(ConfigError, match="have the same number of tokens"):
        peft.RowScale(jnp.ones(4), ((2, 3), (2, 1)), ((4, 2),))
    with pytest.raises(ConfigError, match="have 2 rows, 3 scales"):
        peft.RowScale(scale, ((2, 3),))
    np.testing.assert_array_equal(
        peft.RowScale(scale, ((2, 1), (1, 3))).per_token(5), [1, 0, 0.5, 0.5, 0.5]
    )


def test_trained_numbers_are_counted():
    count = {name: peft.count_params(trained(name)) for name in CONFIGS}
    lora = LAYERS * 2 * (3 * WIDTH + 3 * WIDTH)
    assert count["lora"] == lora and count["rslora"] == 2 * lora
    assert count["dora"] == lora // 2 + LAYERS * 2 * WIDTH
    assert count["ia3"] == LAYERS * (2 * WIDTH + 2 * WIDTH)
    assert count["bias"] == LAYERS * 2 * WIDTH + 6
    assert count["norms"] == count["bias"] + (LAYERS + 1) * WIDTH
    assert count["saved"] == lora + 6 * WIDTH + 6 + WIDTH
    assert count["some layers"] == (3 + 1) * 3 * WIDTH
    assert count["dora, some layers"] == 3 * 3 * WIDTH + 2 * WIDTH
    assert count["ia3, some layers"] == 2 * WIDTH


def test_invalid_configs_raise():
    with pytest.raises(ConfigError, match="this model has no biases"):
        peft.add_adapter(t5(), peft.BiasConfig())
    norms = peft.add_adapter(t5(), peft.BiasConfig(biases=False, norms=True))
    assert peft.count_params(norms) == (2 * 2 + 2 * 3 + 2) * 16
    for config, message in (
        (peft.LoRAConfig(target_modules=["upp"]), "'upp' is not a module of this model"),
        (peft.LoRAConfig(target_modules=".*upp"), "no module's whole name"),
        (peft.LoRAConfig(target_modules=["final_norm"]), "final_norm is not a Linear"),
        (peft.LoRAConfig(target_modules=["up"], layers_to_transform=[7]), "no module is left"),
        (peft.LoRAConfig(target_modules=["up"], exclude_modules=".*up"), "no module is left"),
        (
            peft.LoRAConfig(target_modules=["up"], modules_to_save=["heat"]),
            "'heat' is not a module",
        ),
        (peft.LoRAConfig(), "no defaults"),
        (peft.IA3Config(target_modules=["up"]), "no defaults"),
    ):
        with pytest.raises(ConfigError, match=message):
            peft.add_adapter(Net(), config)
    for make, message in (
        (lambda: peft.LoRAConfig(r=0), "r=0 must be in \\[1, 65536\\]"),
        (lambda: peft.LoRAConfig(lora_dropout=1.0), "lora_dropout=1.0"),
        (lambda: peft.LoRAConfig(target_modules="x", layers_to_transform=[0]), "into the regex"),
        (lambda: peft.LoRAConfig(layers_pattern="h"), "needs layers_to_transform"),
        (
            lambda: peft.IA3Config(target_modules=["a"], feedforward_modules=["b"]),
            "not in target_modules",
        ),
        (lambda: peft.BiasConfig(biases=False), "trains nothing"),
        (lambda: peft.add_adapter(Net(), CONFIGS["lora"], "a.b"), "'a.b' must consist"),
    ):
        with pytest.raises(ConfigError, match=message):
            make()
