"""The fingerprint of arrays changes with names, shapes, values and their order."""

import jax
import jax.numpy as jnp
import numpy as np

from flaxae.storage.fingerprint import fingerprint


def test_the_fingerprint_changes_with_everything_that_a_frozen_part_is() -> None:
    x = np.arange(6, dtype=np.float32)
    trees = [
        {"a": x},
        {"b": x},
        {"a": x.reshape(2, 3)},
        {"a": x[::-1]},
        {"a": x[[1, 0, 2, 3, 4, 5]]},
        {"a": x + (x == 5) * np.float32(2**-20)},
        {"a": {"a": x}},
        {"a": x, "b": x},
        {"a": x[:5]},
    ]
    found = [fingerprint(tree) for tree in trees]
    assert len(set(found)) == len(trees) and all(len(text) == 16 for text in found)
    assert fingerprint({"a": jnp.asarray(x)}) == found[0]
    assert fingerprint({}) == fingerprint({"a": {}}) == ""


def test_the_fingerprint_does_not_depend_on_the_devices() -> None:
    """A run that is resumed on another mesh finds the same frozen part."""
    x = jnp.sin(jnp.arange(64.0)).reshape(8, 8).astype(jnp.bfloat16)
    mesh = jax.make_mesh((4,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))
    place = jax.NamedSharding(mesh, jax.P(None, "fsdp"))
    assert fingerprint({"a": jax.device_put(x, place)}) == fingerprint({"a": x})
