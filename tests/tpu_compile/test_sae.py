"""Split dictionaries and the models that they read, compiled for chips that need not exist."""

from functools import cache

import pytest

from configs.sae import wide
from flaxae import tpu_compile
from flaxae.config import MeshConfig, copy_config
from flaxae.lm import sizes
from flaxae.lm.llama.modeling import Llama, LlamaConfig
from flaxae.machine.sharding import make_mesh
from flaxae.models.sae.devices import abstract_model
from flaxae.tpu_compile.hlo import Program
from flaxae.tpu_compile.report import peak_bytes

pytestmark = pytest.mark.tpu
CHIPS, ROWS, WIDTH, LATENTS, K, AUX = 4, 64, 256, 4096, 8, 16
LAYERS, INNER, VOCAB, LENGTH = 3, 512, 1024, 96


@pytest.fixture(scope="module", autouse=True)
def small():
    """Register a size that is large enough to be split over the chips."""
    shape = (WIDTH, INNER, 4, 4, 64, LAYERS, VOCAB)
    sizes.SIZES["llama-small"] = (Llama, LlamaConfig, shape, {})
    yield
    del sizes.SIZES["llama-small"]


def config():
    fields = {"task.sizes": "llama-small", "task.layer": 1, "task.d_sae": LATENTS, "task.k": K}
    more = {"task.loss.k_aux": AUX, "data.batch_size": ROWS, "mesh.model": CHIPS}
    rest = {"data.model_rows": CHIPS, "data.max_length": LENGTH}
    return copy_config(wide.get_config(), fields | more | rest)


@cache
def report() -> tpu_compile.Report:
    return tpu_compile.analyse(config(), "v5e:2x2", effort=-1.0)


def test_latents_stay_on_their_chip():
    """Chips send candidates of the selection, and sums over latents: outputs and gradients."""
    found = report()
    assert found.fits and found.chips == CHIPS
    candidates, outputs = 4 * ROWS * CHIPS * AUX, 4 * ROWS * WIDTH
    for message in found.collectives:
        assert message.size <= max(candidates, outputs), message
        assert LATENTS // CHIPS not in message.shape, message


def test_a_chip_has_its_part_of_the_dictionary_and_its_moments():
    part = 3 * 4 * 2 * WIDTH * LATENTS / CHIPS  # encoder and decoder, with two moments
    assert part < report().argument_bytes < 1.2 * part
    # AuxK, which the task does not count, decodes once more: 3 products beside 5.
    assert report().flops == pytest.approx(8 / 5 * report().task_flops, rel=0.12)


def test_a_chip_gathers_one_layer_of_the_model_at_a_time():
    task = config().task.make(config())
    mesh = make_mesh(MeshConfig(), tpu_compile.topology("v5e:2x2"))
    compiled = task.reader_on(mesh).lower(LENGTH).compile({"exec_time_optimization_effort": -1.0})
    messages = Program(compiled.as_text()).collectives(dict(mesh.shape))
    states = 4 * CHIPS * LENGTH * WIDTH
    kernel = 2 * WIDTH * INNER
    assert messages and not any(m.shape[:1] == (LAYERS,) for m in messages)
    assert all(m.size <= max(states, kernel, 2 * VOCAB * WIDTH) for m in messages)
    held = compiled.memory_analysis().argument_size_in_bytes
    weights = sum(x.size for x in _leaves(task.options)) * 2
    assert held < 1.3 * weights / CHIPS + 2**17


def _leaves(options):
    import jax
    from flax import nnx

    model = abstract_model(options.sizes, options.model_weights, options.model_dtype)
    return jax.tree.leaves(nnx.split(model)[1])


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["million", "llama_7b"])
def test_a_full_size_dictionary_and_its_model_fit_sixteen_chips(preset):
    """Both are in memory at the same time; their programs run one after the other."""
    found = tpu_compile.analyse(wide.get_config(preset), "v5e:4x4", effort=-1.0)
    config = wide.get_config(preset)
    task, devices = config.task.make(config), tpu_compile.topology("v5e:4x4")
    reader = task.reader_on(make_mesh(MeshConfig(), devices))
    compiled = reader.lower(256).compile({"exec_time_optimization_effort": -1.0})
    memory = compiled.memory_analysis()
    model, reading = memory.argument_size_in_bytes, peak_bytes(memory)
    print(f"{preset}: {found.json()}\nmodel {model}, pass {reading}")
    assert found.hbm_bytes + model < found.hbm_capacity_bytes
    assert found.argument_bytes + reading < found.hbm_capacity_bytes
