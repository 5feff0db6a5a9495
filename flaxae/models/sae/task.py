"""The task of training a dictionary on hidden states: data, loss, evaluation sums."""

import dataclasses
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from flaxae.activations.stream import StateReader, StateStream, batch_shapes
from flaxae.config import Config
from flaxae.config.locate import user_path
from flaxae.errors import ConfigError, require
from flaxae.models.sae import devices, losses, reconstruction, states, updates
from flaxae.models.sae.config import SAEOptions, StateDataConfig
from flaxae.models.sae.modeling import TrainedSAE, TrainedStates
from flaxae.models.sae.options import TRANSCODERS, Architecture
from flaxae.models.sae.per_layer import layered_loss
from flaxae.sparse_autoencoder.modules import Activation, Normaliser, normalised, restored
from flaxae.sparse_autoencoder.tensors import read_safetensors
from flaxae.task import Context, Loss, Sums, Task


@dataclasses.dataclass
class SAETaskConfig(SAEOptions):
    """A dictionary over the hidden states of the model that `pretrained` names."""

    def make(self, config: Config) -> "SAETask":
        """Return the task."""
        return SAETask(config)


class SAETask(Task):
    """The task of an SAETaskConfig; the model that is read is part of the data."""

    hparams = {"sparsity": "task.loss.sparsity"}
    shown = ("l0", "fvu", "dead")
    sharding_rules = (
        (r"sae/w_enc$", P(None, "model")),
        (r"sae/w_dec$", P("model", None)),
        (r"sae/(b_enc|threshold|r_mag|b_mag)$", P("model")),
    )

    def __init__(self, config: Config):
        if not isinstance(config.task, SAETaskConfig):
            raise ConfigError(f"task: not an SAETaskConfig, but a {type(config.task).__name__}")
        if not isinstance(config.data, StateDataConfig):
            raise ConfigError(f"data: not a StateDataConfig, but a {type(config.data).__name__}")
        self.config, self.options, self.data_config = config, config.task, config.data
        require(
            bool(config.pretrained or self.options.sizes),
            "pretrained: name the model whose states are read: smollm2-135m, a directory, a GGUF "
            "file or a Hub id",
        )
        require(
            config.accumulate == 1 or not self.options.needs_whole_batch,
            f"accumulate={config.accumulate}: the loss of {self.options.architecture.value} with "
            "these options is that of a whole batch, which micro-batches would change: use "
            "accumulate=1",
        )
        self._streams: dict[str, StateStream] = {}
        if self.options.kind is Activation.BATCH_TOPK or self.options.k_max:
            self.hparams = {**self.hparams, "k": "task.k"}

    @cached_property
    def source(self) -> states.StateModel:
        """The model whose states are read."""
        options = self.options
        require(not options.sizes, "task.sizes: a model without weights has no states to read")
        types = options.model_weights, options.model_dtype
        return states.kept_model(self.config.pretrained, *types, mesh=self.reader_mesh)

    @cached_property
    def reader_mesh(self) -> Mesh | None:
        """The devices of the model that is read; None: one."""
        return devices.reader_mesh(self.config.mesh)

    @cached_property
    def splits(self) -> Any:
        """The texts of each split."""
        return states.splits_of(self.data_config)

    @cached_property
    def reader(self) -> StateReader:
        """The compiled pass of the model."""
        return self.reader_on(self.reader_mesh)

    def reader_on(self, mesh: Mesh | None) -> StateReader:
        """Return the pass of the model on devices; that of `task.sizes` can only be compiled."""
        options, (inputs, target) = self.options, states.taps_of(self.options)
        taps = [*inputs, *([] if target is None else [target])]
        if options.sizes:
            types = options.model_weights, options.model_dtype
            model = devices.abstract_model(options.sizes, *types)
        else:
            model = self.source.model
        return StateReader(model, taps, self.data_config.model_rows, mesh)

    @cached_property
    def widths(self) -> list[int]:
        """Width of each input and of the target."""
        if not self.options.sizes:
            return self.data("train").widths
        return self.reader_on(None).widths(self.data_config.max_length)

    def batch_spec(self) -> Any:
        """Return the shapes of a batch; `task.sizes` has no data."""
        if not self.options.sizes:
            return super().batch_spec()
        inputs = len(states.taps_of(self.options)[0])
        shapes = batch_shapes(self.data_config.batch_size, self.widths, inputs)
        return {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}

    def data(self, split: str) -> StateStream:
        """Return the states of a split."""
        require(split in self.splits, f"no split {split!r}; there are {', '.join(self.splits)}")
        if split not in self._streams:
            self._streams[split] = states.make_stream(
                self.source, self.splits[split], self.options, self.data_config, split, self.reader
            )
        return self._streams[split]

    @cached_property
    def importance(self) -> np.ndarray | None:
        """Factors of the features' errors; None: all are 1.

        They are a NumPy array: an array of a trace, kept here, could not be used in the next one.
        """
        if not self.options.importance:
            return None
        path = user_path(self.options.importance)
        found = read_safetensors(path)
        require("importance" in found, f"{path}: tensor importance is missing")
        spec = self.batch_spec()
        several = self.options.architecture is Architecture.LAYERED
        shape = spec.get("y", spec["x"]).shape[1:]
        shape = (1, *shape) if several and len(shape) == 1 else shape
        have = found["importance"].shape
        require(have == shape, f"{path}: importance has shape {have}, the states have {shape}")
        return found["importance"]

    def data_notes(self) -> list[str]:
        """Return the size of the data, and remarks on the texts."""
        stream = self.data("train")
        used, rows = int(stream.rows.use.sum()), len(stream.rows.ids)
        line = f"{used:,} states of {rows:,} rows of {self.data_config.max_length} tokens"
        return [line, *self.splits.notes]

    def init(self, rngs: nnx.Rngs) -> Any:
        """Draw a dictionary."""
        options, widths = self.options, self.widths
        if options.several:
            layers = len(options.layers or (options.layer,))
            return TrainedStates(options, layers, widths[0], rngs=rngs)
        pool = self.data_config.batch_size if options.resample_every else 0
        return TrainedSAE(options, widths[0], widths[-1], pool=pool, rngs=rngs)

    def load_pretrained(self, abstract: Any, shardings: Any) -> dict[str, Any]:
        """Return nothing: `pretrained` names the model whose states are read."""
        return {"params": {}, "frozen": {}}

    def init_from_data(self, state: Any, batches: Iterator[Any], ctx: Context) -> Any:
        """Set the factors of the states, and the decoder's bias of `tied_bias`."""
        return updates.from_data(state, batches, self.options)

    def loss(self, model: Any, batch: Any, ctx: Context) -> Loss:
        """Return the loss of a batch of states."""
        if self.options.several:
            return self._several(model, batch, ctx)[0]
        return self._dictionary(model, batch, ctx)[0]

    def _dictionary(
        self, model: TrainedSAE, batch: Any, ctx: Context
    ) -> tuple[Loss, losses.Terms, Float[Array, "B O"]]:
        """Return the loss, its terms and the target, in the units of the dictionary.

        In training, activity is counted.
        """
        options, weights = self.options, batch["weight"]
        factors: Any = model.factors[...]
        x = normalised(batch["x"] * factors[0], options.normaliser)
        target = batch["y"] * factors[1] if options.architecture in TRANSCODERS else x
        dead = model.dead(options.dead_after)
        terms = losses.dictionary_loss(
            model.sae,
            options.architecture,
            options.loss,
            x,
            target,
            weights,
            ctx,
            dead=dead,
            importance=None if self.importance is None else jnp.asarray(self.importance),
        )
        rows = weights.sum()
        if ctx.train:
            model.observe(terms.activity, options.threshold_rate)
            if options.resample_every:
                errors = jnp.square(terms.output - target).sum(-1) * weights
                model.pool_x[...] = jax.lax.stop_gradient(x)
                model.pool_loss[...] = jax.lax.stop_gradient(errors)
        active = jnp.sum(terms.activity.active * weights)
        metrics = {name: (value, rows) for name, value in terms.parts.items()}
        metrics["l0"] = (active, rows)
        error = reconstruction.squared_error(terms.output, target, weights)
        metrics["fvu"] = (error, reconstruction.variance(target, weights))
        metrics["dead"] = (dead.astype(jnp.float32).sum(), jnp.float32(dead.shape[0]))
        return Loss(terms.total, rows, metrics), terms, target

    def _several(
        self, model: TrainedStates, batch: Any, ctx: Context
    ) -> tuple[Loss, Float[Array, "B L D"], Float[Array, "B L D"]]:
        """Return the loss of states of several layers, the output and the target."""
        options, weights, inner = self.options, batch["weight"], model.inner
        factors: Any = model.factors[...]
        x = batch["x"] if batch["x"].ndim == 3 else batch["x"][:, None]
        x = x * factors[0]
        if options.architecture is Architecture.LAYERED:
            found = inner(x, ctx, weights)
            weight = losses.sparsity_weight(options.loss, ctx)
            importance = None if self.importance is None else jnp.asarray(self.importance)
            total, parts = layered_loss(found, x, weights, importance=importance, sparsity=weight)
            output, f = found.output, found.latents
            active = (f > 0).astype(jnp.float32).sum((1, 2)) / x.shape[1]
        else:
            codes = inner.encode(x, ctx, weights)
            output = inner.decode(codes.values, ctx)
            error = jnp.sum(jnp.square(output - x).sum((1, 2)) * weights)
            commitment = jnp.sum(codes.loss.sum((1, 2)) * weights)
            total, parts = error + commitment, {"recon": error, "commitment": commitment}
            active = jnp.full(len(x), float(inner.tokens))
        rows = weights.sum()
        metrics = {name: (value, rows) for name, value in parts.items()}
        metrics["l0"] = (jnp.sum(active * weights), rows)
        flat = x.reshape(len(x), -1)
        error = reconstruction.squared_error(output.reshape(flat.shape), flat, weights)
        metrics["fvu"] = (error, reconstruction.variance(flat, weights))
        return Loss(total, rows, metrics), output, x

    def transform_grads(self, grads: Any, state: Any, ctx: Context) -> Any:
        """Remove the part of the decoder's gradient along its rows, where they have norm 1."""
        if self.options.several or not self.options.unit_norm:
            return grads
        return updates.projected(grads, state["params"])

    def after_update(self, state: Any, ctx: Context) -> Any:
        """Restore norms and thresholds, and resample dead latents when it is due."""
        if self.options.several:
            return state
        return updates.constrained(state, ctx, self.options)

    def eval_step(self, model: Any, batch: Any, ctx: Context) -> Sums:
        """Return sums over states, from which `finalize` computes the measures of a split."""
        weights = batch["weight"]
        if self.options.several:
            loss, output, target = self._several(model, batch, ctx)
            output, target = (x.reshape(len(x), -1) for x in (output, target))
            extra: dict[str, Any] = {}
        else:
            loss, terms, target = self._dictionary(model, batch, ctx)
            output = terms.output
            if self.options.normaliser is not Normaliser.NONE:  # measures are those of the states
                target = batch["x"]
                output = restored(output, target, self.options.normaliser)
            extra = {"fired": (terms.activity.fired, weights.sum())}
        kept = {n: x for n, x in loss.metrics.items() if n not in ("fvu", "dead")}
        sums = reconstruction.reconstruction_sums(
            output, target, weights, model.mean[...].reshape(-1)
        )
        return {"loss": (loss.total, loss.weight), **kept, **sums, **extra}

    def finalize(self, sums: dict[str, tuple[Any, Any]]) -> dict[str, float]:
        """Return the measures of a split: FVU over all states, never active and dense latents."""
        out = super().finalize(sums)
        for name in ("error", "square"):
            out.pop(name, None)
        out["fvu"] = reconstruction.fvu(sums)
        if "fired" in sums:
            fired, rows = np.asarray(sums["fired"][0]), float(sums["fired"][1])
            out["never_active"] = float((fired == 0).mean())
            out["dense"] = float((fired > 0.1 * rows).mean())
        return out

    def report(self, loaded: Any, outdir: str) -> dict[str, Any]:
        """Evaluate a trained run, see `evaluation.report`."""
        from flaxae.models.sae import evaluation

        loaded.check_data()
        return evaluation.report(loaded, outdir)

    def dashboard(self, loaded: Any, tokens: int, texts: Sequence[str] = ()) -> Any:
        """Return the dictionary with its model and text, for `python -m flaxae.dashboard`."""
        from flaxae.models.sae import dashboard

        return dashboard.dashboard_input(loaded, tokens, texts)

    def flops(self, batch_spec: Any, hparams: dict[str, Any]) -> float:
        """Return the matmul FLOPs of a dense train step, without the model that is read."""
        if self.options.several:
            return 0.0
        rows, d_in = batch_spec["x"].shape
        d_out = batch_spec["y"].shape[-1] if "y" in batch_spec else d_in
        d_sae = self.options.dictionary(d_in, d_out).d_sae
        return 2.0 * rows * d_sae * (2 * d_in + 3 * d_out)
