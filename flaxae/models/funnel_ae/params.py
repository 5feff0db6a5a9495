"""Pretrained weights of a Funnel AE: embeddings and encoder blocks of a Hugging Face Funnel."""

import dataclasses
import re
import sys
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from flaxae.data import wordpiece
from flaxae.errors import require
from flaxae.lm.funnel import params as funnel_params
from flaxae.lm.funnel.config import FunnelConfig
from flaxae.weights import hf

# Fields that change no parameter and may differ from those of the files.
FREE = {
    *("attention_type", "pooling_type", "pool_q_only", "separate_cls", "truncate_seq"),
    *("hf_compat_mask", "hidden_dropout", "attention_dropout", "activation_dropout", "head"),
    *("embedding_std", "initializer_range", "dtype", "remat", "scan_unroll", "tie_embeddings"),
    *("block_repeats", "num_decoder_layers"),
}


def load_pretrained(
    source: str, funnel: FunnelConfig, abstract: dict[str, Any], shardings: dict[str, Any]
) -> dict[str, Any]:
    """Read embeddings and encoder blocks; the decoder's own blocks start as copies of them.

    Args:
        source: a directory, or a Hub id, of a Funnel with a decoder or without.
        funnel: the sizes of the run's config, `vocab_size` included.
        abstract: {"params", "frozen"} of the whole model.
        shardings: the same tree of NamedShardings.

    Returns:
        {"params", "frozen"} with the read parts; other parameters keep their initial values.

    Raises:
        ConfigError: if the directory is not a Funnel, or its sizes are not those of the config.
    """
    theirs, tensors, table = funnel_params.open_directory(source, encoder_only=True)
    names = [f.name for f in dataclasses.fields(FunnelConfig) if f.name not in FREE]
    pairs = [(n, getattr(funnel, n), getattr(theirs, n)) for n in names]
    wrong = [f"{n}: {a}, not {b}" for n, a, b in pairs if a != b]
    require(
        not wrong,
        f"pretrained={source}: the config's task.funnel is another Funnel ({'; '.join(wrong)}); "
        "set these fields",
    )
    if table.unused:
        parts = dict.fromkeys(_part(name) for name in table.unused)
        print(f"pretrained={source}: not used: {', '.join(parts)}", file=sys.stderr)
    out: dict[str, Any] = {"params": {}, "frozen": {}}
    for name in ("embeddings", "encoder"):
        home = "params" if name in abstract["params"] else "frozen"
        out[home][name] = None
    tree = {n: abstract[h][n] for h in out for n in out[h]}
    places = {n: shardings[h][n] for h in out for n in out[h]}
    read = hf.read_params(tensors, table, tree, places)
    found = wordpiece.find(hf.resolve(source))
    if found is not None:
        place = places["embeddings"]["tokens"]["table"]
        read["embeddings"]["tokens"]["table"] = _renumbered(
            read["embeddings"]["tokens"]["table"], found.rows, place
        )
    for home, parts in out.items():
        out[home] = {name: read[name] for name in parts}
    if "blocks" in abstract["params"].get("decoder", {}):
        # Copies: the buffers of parameters are donated, which is possible only once.
        copies = jax.tree.map(lambda x: x.copy(), read["encoder"]["blocks"])
        out["params"]["decoder"] = {"blocks": copies}
    return out


def _renumbered(table: Array, rows: np.ndarray, sharding: Any) -> Array:
    """Return an embedding whose rows are in the order of a renumbered tokenizer."""
    order = np.concatenate([rows, np.arange(len(rows), len(table))])
    return jax.jit(lambda x: x[order], out_shardings=sharding)(table)


def _part(name: str) -> str:
    """Return the part of a model that a weight belongs to: a layer of the decoder, or a head."""
    layer = re.match(r"(.*decoder\.layers\.\d+)\.", name)
    return layer[1] if layer else name.rpartition(".")[0]
