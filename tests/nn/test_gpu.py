"""The code of the GPU kernels, interpreted on a CPU, compared with the layers in plain JAX."""

from contextlib import nullcontext
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxae import losses, peft
from flaxae.config import MeshConfig
from flaxae.errors import ConfigError
from flaxae.lm.t5.blocks import T5Config
from flaxae.lm.t5.modeling import T5
from flaxae.machine import sharding
from flaxae.nn import gpu
from flaxae.nn.attention import Attention
from flaxae.nn.gpu import attention, availability, gate, loss, norm
from flaxae.nn.gpu.call import call
from flaxae.nn.gpu.joined import joinable
from flaxae.nn.linear import Linear
from flaxae.nn.norm import RMSNorm
from flaxae.task import Context, Taps

SEGMENTS = ((8, 16), (3, 32))
MEMORY = ((8, 16), (3, 16))
CONFIG = T5Config(
    d_model=48, d_ff=1024, d_kv=16, num_heads=3, num_layers=2, num_decoder_layers=2, vocab_size=40
)
KERNELS = {"attention", "attention_backward", "gated", "gated_backward"}
KERNELS |= {"sum_and_rms_norm", "rms_norm_backward"}


@pytest.fixture
def ctx() -> Context:
    return Context(key=jax.random.key(1), step=jnp.int32(0), train=True)


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Interpret the kernels; return the list of the names of called kernels."""
    names: list[str] = []

    def recorded(*args, name, **options):
        names.append(name)
        return call(*args, name=name, **options)

    for module in (attention, gate, loss, norm):
        monkeypatch.setattr(module, "call", recorded)
    monkeypatch.setenv("FLAXAE_GPU_KERNELS", "interpret")
    return names


def positions(segments):
    return sum(rows * length for rows, length in segments)


def normal(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def random_mask(rows, length, seed):
    lengths = np.random.default_rng(seed).integers(1, length + 1, rows)
    return jnp.asarray(np.arange(length)[None] < lengths[:, None], jnp.float32)


def assert_close(ours, theirs, tolerance=1e-5):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(
            a, b, rtol=tolerance, atol=tolerance * float(jnp.max(jnp.abs(b)))
        )


def t5_gradients(ctx):
    """Return a scalar of all states of encoder and decoder, and its gradients."""
    graphdef, params = nnx.split(T5(CONFIG, rngs=nnx.Rngs(params=0)))

    def loss(params, x, memory):
        model = nnx.merge(graphdef, params)
        masks = [random_mask(rows, length, length) for rows, length in SEGMENTS]
        states = model.encoder(x, ctx.at("encoder"), segments=SEGMENTS, masks=masks)
        y = model.decoder(
            states,
            ctx.at("decoder"),
            segments=SEGMENTS,
            memory=memory,
            memory_segments=MEMORY,
            memory_masks=[random_mask(rows, length, 7) for rows, length in MEMORY],
        )
        return jnp.sum(jnp.sin(3 * y)) + jnp.sum(states**2)

    x, memory = normal(positions(SEGMENTS), 48, seed=2), normal(positions(MEMORY), 48, seed=3)
    return jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(params, x, memory)


@pytest.mark.slow
def test_t5_is_the_same_with_and_without_the_kernels(ctx, used, monkeypatch):
    ours = t5_gradients(ctx)
    assert set(used) == KERNELS
    used.clear()
    monkeypatch.setenv("FLAXAE_GPU_KERNELS", "off")
    assert_close(ours, t5_gradients(ctx), 2e-4)
    assert not used


def plain_attention(q, kv, bias, mask, segments, memory, heads=2, width=16):
    out, row, key = [], 0, 0
    for i, ((rows, length), (_, keys)) in enumerate(zip(segments, memory, strict=True)):
        cut_q, cut_k = slice(row, row + rows * length), slice(key, key + rows * keys)
        k, v = (x.reshape(rows, keys, heads, width) for x in jnp.split(kv[cut_k], 2, axis=1))
        own = q[cut_q].reshape(rows, length, heads, width)
        scores = jnp.einsum("bshk,bthk->bhst", own, k)
        if bias:
            scores = scores + bias[i][None]
        if mask is not None:
            scores = scores + mask[cut_k].reshape(rows, 1, 1, keys)
        y = jnp.einsum("bhst,bthk->bshk", jax.nn.softmax(scores, axis=-1), v)
        out.append(y.reshape(rows * length, heads * width))
        row, key = cut_q.stop, cut_k.stop
    return jnp.concatenate(out)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("segments", [((5, 16),), SEGMENTS])
def test_fused_attention_and_its_gradients_equal_plain_attention(
    segments, own, biased, masked, monkeypatch
):
    monkeypatch.setenv("FLAXAE_GPU_KERNELS", "interpret")
    memory = segments if own else tuple((rows, 16) for rows, _ in segments)
    n, m = positions(segments), positions(memory)
    q, kv, weight = normal(n, 32, seed=1), normal(m, 64, seed=2), normal(n, 32, seed=3)
    sizes = [(s, t) for (_, s), (_, t) in zip(segments, memory, strict=True)]
    bias = [normal(2, s, t, seed=4) for s, t in sizes] if biased else []
    mask = jnp.where(normal(m, seed=5) > 1, -1e9, 0.0) if masked else None

    def ours(q, kv, bias):
        joined = [jnp.concatenate([q, kv], axis=1)] if own else [q, kv]
        sides = {"queries": segments, "keys": memory}
        y = attention.fused_attention(joined, bias, mask, heads=2, width=16, **sides)
        return jnp.sum(weight * y)

    def plain(q, kv, bias):
        return jnp.sum(weight * plain_attention(q, kv, bias, mask, segments, memory))

    found, expected = (
        jax.jit(jax.value_and_grad(f, (0, 1, 2)))(q, kv, bias) for f in (ours, plain)
    )
    assert_close(found, expected, 1e-4)


@pytest.mark.parametrize(("kind", "half"), [("gelu", 1024), ("silu", 2048), ("gelu", 3072)])
def test_fused_gate_and_its_gradient_equal_the_plain_activation(kind, half, monkeypatch):
    monkeypatch.setenv("FLAXAE_GPU_KERNELS", "interpret")
    assert gate.supported(half)
    x, weight = 2 * normal(3, 2 * half), normal(3, half, seed=1)
    act = {"gelu": lambda x: jax.nn.gelu(x, approximate=True), "silu": jax.nn.silu}[kind]

    def plain(x):
        first, second = jnp.split(x, 2, axis=1)
        return act(first) * second

    assert_close(gate.gated(x, kind), plain(x))
    found, expected = (jax.vjp(f, x)[1](weight) for f in (lambda x: gate.gated(x, kind), plain))
    assert_close(found, expected)


@pytest.mark.parametrize("summed", [False, True])
@pytest.mark.parametrize(("rows", "width"), [(32, 96), (96, 96), (256, 96), (8, 1024), (2, 4096)])
def test_fused_norm_and_its_gradient_equal_the_plain_norm(
    rows, width, summed, ctx, used, monkeypatch
):
    layer = RMSNorm(width)
    layer.scale[...] = normal(width)
    graphdef, state = nnx.split(layer)
    weight, phase = normal(rows, width, seed=1), normal(rows, width, seed=2)

    def loss(state, x, plus):
        x, y = nnx.merge(graphdef, state).add_and_norm(x, ctx, plus=plus if summed else None)
        return jnp.sum(weight * y) + jnp.sum(jnp.sin(x) * phase)

    x, plus = normal(rows, width, seed=3), normal(rows, width, seed=4)
    gradient = jax.value_and_grad(loss, (0, 1, 2))
    found = gradient(state, x, plus)
    assert used == ["sum_and_rms_norm"] * summed + ["rms_norm_backward"]
    monkeypatch.setenv("FLAXAE_GPU_KERNELS", "off")
    assert_close(found, gradient(state, x, plus))


def test_no_kernel_is_used_if_the_added_array_has_another_shape(ctx, used):
    x = normal(32, 96)
    both, _ = RMSNorm(96).add_and_norm(x, ctx, plus=x[:1])
    assert_close(both, x + x[:1])
    assert not used


@pytest.mark.parametrize("width", [1024, 1152, 3968])
def test_fused_cross_entropy_equals_the_plain_one(width, ctx, used, monkeypatch):
    logits = (20 * normal(8, width)).at[1, :1024].set(-jnp.inf).at[1, -1].set(0.0)
    targets = jnp.arange(8) * 13
    targets = targets.at[0].set(jnp.argmax(logits[0])).at[1].set(width - 1)

    def sums(logits):
        return losses.cross_entropy(logits, targets, jnp.arange(8.0), ctx)

    found = jax.value_and_grad(sums, has_aux=True)(logits)
    assert used == ["max_and_logsumexp"]
    monkeypatch.setenv("FLAXAE_GPU_KERNELS", "off")
    assert_close(found, jax.value_and_grad(sums, has_aux=True)(logits))
    assert float(sums(logits - 1e4)[0]) == pytest.approx(float(sums(logits)[0]), rel=1e-3)


def test_the_kernels_can_be_vmapped_over_lanes(monkeypatch):
    monkeypatch.setenv("FLAXAE_GPU_KERNELS", "interpret")
    x, table = normal(3, 64, 96), [normal(2, 16, 16)]
    sides = {"queries": ((4, 16),), "keys": ((4, 16),)}

    def run(x):
        return attention.fused_attention([x], table, None, heads=2, width=16, **sides)

    assert_close(jax.vmap(run)(x), jnp.stack([run(lane) for lane in x]))


def test_kernels_are_not_used_for_unsupported_arguments(ctx, used, monkeypatch):
    layer = Attention(32, 2, 16, dropout_rate=0.5, rngs=nnx.Rngs(0))
    x, bias = normal(32, 32), [jnp.zeros((1, 2, 16, 16))]

    def run(ctx, x=x, segments=((2, 16),), bias=bias, **more):
        used.clear()
        jax.eval_shape(lambda x: layer(x, ctx, segments=segments, bias=bias, **more), x)
        return bool(used)

    assert not run(ctx)  # the layer drops weights
    layer.dropout_rate, quiet = 0.0, ctx
    assert run(quiet)
    mask, table = jnp.zeros((2, 1, 1, 16)), bias[0]
    assert run(quiet, bias=[(table, mask)])
    assert not run(quiet, bias=[(table, table)])
    assert not run(quiet, segments=((1, 16), (1, 16)), bias=[(table, table), ()])
    assert not run(Context(key=ctx.key, step=ctx.step))  # not training
    assert not run(quiet, x=normal(24, 32), segments=((2, 12),), bias=[None])
    assert not run(quiet, x=normal(256, 32), segments=((2, 128),), bias=[None])
    assert not run(quiet, bias=[jnp.zeros((2, 2, 16, 16))])  # one bias per row
    assert not run(quiet, slots=[jnp.zeros((2, 32))])
    for taps in (Taps(collect=lambda path: True), Taps(replace={"weights": lambda x: x})):
        assert not run(Context(key=ctx.key, step=ctx.step, taps=taps, train=True))
    with jax.set_mesh(sharding.make_mesh(MeshConfig(replica=1, fsdp=2), jax.devices()[:2])):
        assert not run(quiet)
    monkeypatch.setenv("FLAXAE_GPU_KERNELS", "auto")  # not used on a CPU
    assert not run(quiet)


def test_only_plain_layers_are_joined():
    class Adapted(Linear):
        pass

    layer, other = Linear(4, 4, rngs=nnx.Rngs(0)), Linear(4, 4, use_bias=True, rngs=nnx.Rngs(0))
    assert joinable(layer, layer)
    assert not joinable(layer, other)
    assert not joinable(layer, Adapted(4, 4, rngs=nnx.Rngs(0)))


def test_a_gpu_uses_kernels_for_large_bfloat16_batches_in_training(ctx, monkeypatch):
    monkeypatch.setattr(availability, "hopper", lambda: True)
    assert gpu.usable(ctx, gpu.FEW, jnp.bfloat16)
    assert not gpu.usable(ctx, gpu.FEW - 1, jnp.bfloat16)
    assert not gpu.usable(ctx, gpu.FEW, jnp.float32)
    assert not gpu.usable(Context(key=ctx.key, step=ctx.step), gpu.FEW, jnp.bfloat16)
    with jax.set_mesh(sharding.make_mesh(MeshConfig(), jax.devices("cpu")[:1])):
        assert not gpu.usable(ctx, gpu.FEW, jnp.bfloat16)  # traced for a CPU
    monkeypatch.setenv("FLAXAE_GPU_KERNELS", "off")
    assert not gpu.usable(ctx, gpu.FEW, jnp.bfloat16)
    monkeypatch.setenv("FLAXAE_GPU_KERNELS", "on")
    with pytest.raises(ConfigError, match="'on' is not one of: auto, off, interpret"):
        gpu.usable(ctx, gpu.FEW, jnp.bfloat16)


def test_an_adapted_norm_uses_no_kernel(ctx, used):
    model = T5(CONFIG, rngs=nnx.Rngs(params=0))
    model = peft.add_adapter(model, peft.BiasConfig(biases=False, norms=True))
    layer = model.encoder.final_norm
    assert type(layer) is not RMSNorm
    x = normal(16, 48)
    jax.grad(lambda x: jnp.sum(jnp.stack(layer.add_and_norm(x, ctx))))(x)
    assert not used


@pytest.mark.parametrize(
    "change",
    [
        {"mask": jnp.zeros(31)},
        {"bias": [jnp.zeros((2, 16, 8))]},
        {"keys": ((3, 16),)},
        {"queries": ((3, 16),), "keys": ((3, 16),)},
        {"joined": [jnp.zeros((32, 32))]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_wrong_shapes_are_an_error(change):
    given = {"joined": [jnp.zeros((32, 96))], "bias": [], "mask": None, "heads": 2, "width": 16}
    given |= {"queries": ((2, 16),), "keys": ((2, 16),)}
    with pytest.raises(ValueError, match="needs"):
        attention.fused_attention(**given | change)


def an_h100():
    """Return a context for lowering to a GPU that is not present; jax 0.10 needs none."""
    try:
        from jax.sharding import AbstractDevice
    except ImportError:
        return nullcontext()
    device = AbstractDevice("NVIDIA H100 80GB HBM3", 132, "gpu")
    types = (jax.sharding.AxisType.Auto,)
    mesh = jax.sharding.AbstractMesh((1,), ("x",), axis_types=types, abstract_device=device)
    return jax.sharding.use_abstract_mesh(mesh)


def test_the_kernels_lower_to_triton(monkeypatch):
    """Lower for a GPU at the sizes of T5-base; compiling by Triton would need one."""
    monkeypatch.setenv("FLAXAE_GPU_KERNELS", "auto")

    def shape(*sizes, dtype=jnp.bfloat16):
        return jax.ShapeDtypeStruct(sizes, dtype)

    wide, segments = jnp.float32, ((8, 32), (24, 64))
    n = positions(segments)
    tables = [shape(12, s, s, dtype=wide) for _, s in segments]

    def attend(joined, tables, mask):
        keys = segments if len(joined) == 1 else tuple((rows, 16) for rows, _ in segments)
        sides = {"queries": segments, "keys": keys}
        y = attention.fused_attention(joined, tables, mask, heads=12, width=64, **sides)
        return jnp.sum(y.astype(wide))

    def act(kind, x):
        return jnp.sum(gate.gated(x, kind).astype(wide))

    def norm_of(width):
        x = shape(n, width)
        return x, shape(n, dtype=wide), shape(width, dtype=wide), x, x

    def summed(x, scale):
        return norm.sum_and_rms_norm(x, x, scale, 1e-6, jnp.dtype(jnp.bfloat16))

    own, crossing = [shape(n, 2304)], [shape(n, 768), shape(32 * 16, 1536)]
    attended = jax.grad(attend, (0, 1))
    lanes = jax.tree.map(lambda x: shape(2, *x.shape, dtype=x.dtype), (own, tables))
    for f, args in (
        (attended, (own, tables, shape(n, dtype=wide))),
        (attended, (crossing, [], None)),
        (jax.vmap(lambda joined, tables: attended(joined, tables, None)), lanes),
        (jax.grad(partial(act, "gelu")), (shape(n, 4096),)),
        (jax.vmap(jax.grad(partial(act, "silu"))), (shape(2, n, 4096),)),
        (loss.max_and_logsumexp, (shape(n, 32128),)),
        *((norm.rms_norm_backward, norm_of(width)) for width in (768, 1024, 2048, 4096)),
        *((summed, (norm_of(width)[0], norm_of(width)[2])) for width in (768, 4096)),
    ):
        with an_h100():
            lowered = jax.jit(f).trace(*args).lower(lowering_platforms=("cuda",))
        assert "triton" in lowered.as_text()
