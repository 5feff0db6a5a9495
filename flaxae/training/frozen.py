"""The frozen part of a model: rebuilt on every start, never saved."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from flaxae.config import Config
from flaxae.errors import ConfigError
from flaxae.machine import sharding
from flaxae.storage.fingerprint import fingerprint
from flaxae.task import LoadsPretrained, Task
from flaxae.training.layout import init_model


class Frozen:
    """The frozen part of a model. It is rebuilt on every start; only its fingerprint is saved.

    Args:
        task: the run's task.
        config: the run's config.
        mesh: the run's mesh.
        saved: whether the trained parameters come from a checkpoint: a model without a frozen part
            then reads no pretrained file.

    Attributes:
        values: nested dict of arrays on the mesh.
        fingerprint: hash of the values; "" if there are none.
        pretrained: parameters that came with the pretrained files; {} without.
    """

    def __init__(self, task: Task, config: Config, mesh: Mesh, saved: bool):
        self.pretrained: dict[str, Any] = {}

        def make() -> Any:
            return init_model(task, jnp.uint32(0), config.frozen_seed)["frozen"]

        with jax.set_mesh(mesh):
            shapes = jax.eval_shape(make)
            shardings = sharding.infer_sharding(shapes, mesh, task.sharding_rules)
            self.values = jax.jit(make, out_shardings=shardings)()
            if config.pretrained and (jax.tree.leaves(shapes) or not saved):
                if not isinstance(task, LoadsPretrained):
                    raise ConfigError(
                        f"pretrained={config.pretrained!r}: {type(task).__name__} reads no "
                        "pretrained weights; leave the field empty"
                    )
                params = jax.eval_shape(lambda: init_model(task, jnp.uint32(0), 0)["params"])
                abstract = {"params": params, "frozen": shapes}
                places = sharding.infer_sharding(abstract, mesh, task.sharding_rules)
                loaded = task.load_pretrained(abstract, places)
                self.pretrained, self.values = loaded["params"], loaded["frozen"] or self.values
            self.fingerprint = fingerprint(self.values)
