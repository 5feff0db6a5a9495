"""Tables: what tensors of a file fill what parameter of a model."""

import dataclasses

from flaxae.errors import require


@dataclasses.dataclass(frozen=True)
class Weight:
    """The tensors that one parameter of ours is made of.

    Attributes:
        names: names of the tensors: one, or one per layer.
        stacked: the first axis of our parameter is the layers.
        transpose: the tensor is (out, in), our parameter (in, out).
        aliases: other names of the same values. A file may contain any of them; if it lacks
            `names`, the first alias that it contains is read instead.
        rows: (i, n): the tensor is n parameters of ours, concatenated on the first axis, and this
            is the i-th (queries, keys and values in one tensor).
    """

    names: tuple[str, ...]
    stacked: bool = False
    transpose: bool = False
    aliases: tuple[str, ...] = ()
    rows: tuple[int, int] = (0, 1)


@dataclasses.dataclass(frozen=True)
class Table:
    """The weights of a model.

    Attributes:
        weights: path of a parameter of ours ("a/b/c") -> its tensors.
        unused: names of tensors that files contain and that are ignored.
    """

    weights: dict[str, Weight]
    unused: tuple[str, ...] = ()

    def check_paths(self, paths: set[str]) -> None:
        """Raise ConfigError unless the table is of exactly these parameters."""
        wrong = sorted(paths ^ set(self.weights))
        require(not wrong, f"the table and the parameters differ in {', '.join(wrong[:8])}")
