"""Measures of the report's runs; what all of them share is computed once."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flaxae.data import sae_probes
from flaxae.errors import require
from flaxae.models.sae import evaluation, probing, states
from flaxae.models.sae.encoders import encode_dictionary
from flaxae.models.sae.options import TRANSCODERS
from flaxae.models.sae.quantised import StateTokenizer
from flaxae.sparse_autoencoder.api import SAE
from flaxae.sparse_autoencoder.splice import recovered
from flaxae.storage.paths import write_text
from flaxae.training.load import load

ALL_BUT_SPLICED = ("clean", "ablated")


class Evaluator:
    """An evaluator of the runs of a report, which share texts and passes of the language model.

    Args:
        folder: folder of the files of shared results.
        facts: number of facts on cities.
        sets: data sets of sae-probes.
        examples: their numbers of training and test texts.
        hooks: hooks whose states are probed.
        splits: the split by which settings are chosen, and the one that is reported.

    Raises:
        ConfigError: if a package with texts is not installed.
    """

    def __init__(
        self,
        folder: Path,
        facts: int,
        sets: Sequence[str],
        examples: tuple[int, int],
        hooks: Sequence[str],
        splits: tuple[str, str],
    ):
        self.folder, self.hooks = folder, tuple(hooks)
        self.chosen, self.reported = splits
        require(
            not sets or sae_probes.installed(),
            "the data sets of sae-probes are not installed: run `pip install --no-deps sae-probes` "
            "(45 MB), or leave them out by --no-sets",
        )
        self._texts = {probing.CITIES: probing.city_texts(facts)}
        self._texts |= {name: probing.texts_of(name, *examples) for name in sets}
        self._states: dict[str, probing.LabelledStates] = {}
        self._dense: dict[str, dict[str, float]] = {}

    def measure(self, workdir: Path, in_range: tuple[float, float] | None) -> dict[str, Any]:
        """Return the numbers of a trained run.

        Args:
            workdir: the run.
            in_range: L0 outside of which only the measures of the held-out states are made.

        Returns:
            The measures of the reported split, and "chosen_l0", that of the other split.
        """
        loaded = load(workdir)
        task, options = loaded.task, loaded.task.options
        found: dict[str, Any] = dict(evaluation.held_out(loaded, self.reported))
        if options.several:
            inner = loaded.model.inner
            return found | ({"bits": inner.bits} if isinstance(inner, StateTokenizer) else {})
        found["chosen_l0"] = l0 = evaluation.held_out(loaded, self.chosen)["l0"]
        if in_range is not None and not in_range[0] <= l0 <= in_range[1]:
            return found
        sae, _ = evaluation.exported(loaded)
        shared = self._baseline(task, sae)
        spliced = evaluation.splice_totals(task, sae, ("spliced",), self.reported)
        sums: dict[str, Any] = {**shared, **spliced}
        found |= recovered(sums)
        return found | self.probes(task, SAE(sae))

    def _baseline(self, task: Any, sae: Any) -> dict[str, Any]:
        """Return the sums of the cross entropies that do not depend on the dictionary."""
        options, rows = task.options, task.data(self.reported).rows
        where = options.hook_out if options.architecture in TRANSCODERS else options.hook
        parts = (
            states.mark_of(task.source, options),
            where,
            options.layer,
            options.cross_entropy_rows,
        )
        sha = hashlib.sha256(repr(parts).encode())
        for array in rows:
            sha.update(np.ascontiguousarray(array).tobytes())
        file = self.folder / f"cross_entropy-{sha.hexdigest()[:16]}.json"
        if not file.exists():
            sums = evaluation.splice_totals(task, sae, ALL_BUT_SPLICED, self.reported)
            file.parent.mkdir(parents=True, exist_ok=True)
            write_text(file, json.dumps({name: _floats(x) for name, x in sums.items()}))
        return json.loads(file.read_text())

    def probes(self, task: Any, sae: SAE) -> dict[str, Any]:
        """Return AUROCs of probes of latents, and of regressions on the states."""
        hook = task.options.hook
        if not self._states:
            source, layers = task.source, [task.options.layer]
            mark = states.mark_of(source, task.options)
            at = self.hooks, layers, self._texts, self.folder
            self._states = probing.collect(source, mark, *at)
        if hook not in self._dense:
            self._dense[hook] = {name: x.dense(hook) for name, x in self._states.items()}
        sparse = {
            name: x.sparse(encode_dictionary(sae, x.states[hook][:, 0]))
            for name, x in self._states.items()
        }
        dense = self._dense[hook]
        cities = {f"cities_k{k}": x for k, x in sparse[probing.CITIES].items()}
        out: dict[str, Any] = cities | {"cities_states": dense[probing.CITIES]}
        others = [name for name in sparse if name != probing.CITIES]
        if others:
            for k in probing.SPARSE:
                out[f"sets_k{k}"] = float(np.mean([sparse[name][k] for name in others]))
            out["sets_states"] = float(np.mean([dense[name] for name in others]))
            out["sets"] = {
                name: {"states": dense[name], **{f"k{k}": x for k, x in sparse[name].items()}}
                for name in others
            }
        return out


def _floats(pair: Any) -> list[float]:
    return [float(x) for x in pair]
