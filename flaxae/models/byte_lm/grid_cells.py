"""The 648 cells of the grid, a balanced ninth of them, and their costs."""

import enum
import itertools
from typing import Any, NamedTuple

from flaxae.models.byte_lm.grid import GridConfig, Readout, is_blind, is_reservoir
from flaxae.models.byte_lm.recurrence import Dynamic


class Cell(NamedTuple):
    """Settings of a cell; the fields are the factors.

    Attributes:
        layers: number of layers.
        dynamic: update of the state.
        states: states of a layer, N.
        hidden: features of the linear output, H; 0: the output is the state.
        same_step: whether outputs read the new state.
        output_gate: whether outputs have a gate.
        bptt: steps after which gradients through time stop, k.
    """

    layers: int
    dynamic: Dynamic
    states: int
    hidden: int
    same_step: bool
    output_gate: bool
    bptt: int

    @property
    def options(self) -> GridConfig:
        """The cell as a task's config."""
        out = GridConfig()
        for name, value in self._settings().items():
            setattr(out, name, value)
        return out

    @property
    def overrides(self) -> dict[str, Any]:
        """The cell as overrides of a config, in plain types."""
        return {
            f"task.{name}": value.value if isinstance(value, enum.Enum) else value
            for name, value in self._settings().items()
        }

    def _settings(self) -> dict[str, Any]:
        readout = {"readout": Readout.LINEAR, "hidden": self.hidden}
        if not self.hidden:
            readout = {"readout": Readout.STATE}
        plain = {k: v for k, v in self._asdict().items() if k != "hidden"}
        return plain | readout

    @property
    def recurrent_states(self) -> int:
        """States of all layers, L * N."""
        return self.layers * self.states

    @property
    def corner(self) -> str:
        """Name of the degenerate case that the cell is: "reservoir", "blind", both or ""."""
        kinds = {"reservoir": is_reservoir, "blind": is_blind}
        return ", ".join(name for name, check in kinds.items() if check(self.options))

    @property
    def cost(self) -> float:
        """FLOPs of training per byte, of all matmuls that its program computes."""
        n, w = self.states, self.hidden or self.states
        maps = 2 if self.hidden else 1  # the gate is computed in all cells
        return 6.0 * (self.layers * (n + w) * (self.dynamic.gates * n + maps * w) + 256 * w)

    def __str__(self) -> str:
        """Return a short name, such as "L1 gated N32 H32 same gate k2"."""
        parts = [f"L{self.layers}", self.dynamic.value, f"N{self.states}"]
        parts += [f"H{self.hidden}"] * bool(self.hidden)
        parts += ["same"] * self.same_step + ["gate"] * self.output_gate
        return " ".join([*parts, f"k{self.bptt}"])


FACTORS: dict[str, tuple[Any, ...]] = {
    "layers": (1, 2, 3),
    "dynamic": tuple(Dynamic),
    "states": (32, 256),
    "hidden": (0, 32, 256),
    "same_step": (False, True),
    "output_gate": (False, True),
    "bptt": (1, 2, 4),
}
# Programs of the fraction: L, dynamic, N, H, and whether same step and gate agree in its cells.
# Each level of a factor occurs equally often, and as far as possible each pair of levels.
_PROGRAMS = (
    (1, Dynamic.TANH, 256, 0, True),
    (1, Dynamic.GATED, 32, 0, True),
    (1, Dynamic.GATED, 256, 32, False),
    (1, Dynamic.DOUBLY_GATED, 32, 256, False),
    (2, Dynamic.TANH, 256, 256, False),
    (2, Dynamic.GATED, 32, 256, False),
    (2, Dynamic.DOUBLY_GATED, 256, 0, True),
    (2, Dynamic.DOUBLY_GATED, 32, 32, True),
    (3, Dynamic.TANH, 32, 0, False),
    (3, Dynamic.TANH, 32, 32, True),
    (3, Dynamic.GATED, 256, 256, True),
    (3, Dynamic.DOUBLY_GATED, 256, 32, False),
)


def all_cells() -> list[Cell]:
    """Return the 648 cells."""
    return [Cell(*values) for values in itertools.product(*FACTORS.values())]


def fraction() -> list[Cell]:
    """Return 72 cells: 24 whole triples of k, in which main effects are balanced.

    A program has two triples, whose levels of same step and of output gate differ.
    """
    out = []
    for layers, dynamic, states, hidden, agree in _PROGRAMS:
        for same, k in itertools.product((False, True), FACTORS["bptt"]):
            out.append(Cell(layers, dynamic, states, hidden, same, same == agree, k))
    return out


def whole_updates(cells: list[Cell], update: int = 16) -> list[Cell]:
    """Return the cells of each triple with k = U, whose gradients reach through whole updates."""
    return list(dict.fromkeys(cell._replace(bptt=update) for cell in cells))


def small() -> list[Cell]:
    """Return the 144 cells of 32 states, one gate or none, and 32 features or states as output.

    Each has a partner that differs in one factor alone, for each factor but the numbers of states
    and of output features. States with two gates are left out: their cells often diverge.
    """
    return [
        cell
        for cell in all_cells()
        if cell.dynamic is not Dynamic.DOUBLY_GATED and cell.states == 32 and cell.hidden in (0, 32)
    ]


def quick() -> list[Cell]:
    """Return the cells of two small programs, to test the report."""
    small = {(Dynamic.TANH, 0), (Dynamic.GATED, 32)}
    return [
        cell
        for cell in all_cells()
        if (cell.layers, cell.states) == (1, 32) and (cell.dynamic, cell.hidden) in small
    ]
