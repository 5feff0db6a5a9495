"""The runs of the grid's report, and the numbers that a record has of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from flaxae.config import Config, config_hash, copy_config
from flaxae.models.byte_lm.grid import WindowGridConfig
from flaxae.models.byte_lm.grid_bet import Bits, Curve, at_equal_time, has_diverged
from flaxae.models.byte_lm.grid_cells import Cell, all_cells, fraction, whole_updates
from flaxae.models.byte_lm.grid_train import (
    EQUAL,
    ORIGINAL,
    ORIGINAL_BYTES,
    RATE,
    WINDOW,
    Run,
    as_task,
    equal_runs,
    original_runs,
    rated,
    stopping,
    window_runs,
)
from flaxae.models.byte_lm.streams import WARM_UP
from flaxae.sweep.record import read_record


class Plan:
    """The runs of a report.

    Attributes:
        base: the config that all cells override.
        windowed: the same for cells whose gradients reach equally far back from each byte.
        cells: cells that are trained with equal updates.
        paired: cells that are also trained with an update every k bytes, and whose speeds are
            measured.
        size: bytes of training of each of the latter.
        batches: batches of their evaluation on the test split.
        quick: whether all runs are short, and evaluated on as many batches.
    """

    def __init__(
        self,
        space: dict[str, Any],
        path: str,
        every: bool = False,
        quick: bool = False,
        more: Sequence[Cell] = (),
    ):
        """Choose the runs.

        Args:
            space: what the grid's config file defines.
            path: `data.path`.
            every: all 648 cells, not a balanced ninth of them.
            quick: small cells and short runs.
            more: other cells to train with equal updates.
        """
        preset = "quick" if quick else "all" if every else ""
        self.base: Config = copy_config(space["get_config"](preset), {"data.path": path})
        self.windowed = as_task(self.base, WindowGridConfig)
        chosen: list[Cell] = space["get_cells"](preset)
        self.cells = list(dict.fromkeys([*chosen, *more]))
        self.paired = chosen if quick else fraction()
        self.size = ORIGINAL_BYTES // 16 if quick else ORIGINAL_BYTES
        self.batches: int = self.base.eval.num_batches if quick else 32
        self.quick = quick
        self._keys: dict[tuple[str, Cell], str] = {}

    @property
    def whole(self) -> list[Cell]:
        """Cells with k = U, a reference outside the bet."""
        return whole_updates(self.paired)

    @property
    def windows(self) -> list[Cell]:
        """Small cells with k > 1, of which windows of k bytes are trained too."""
        small = [x for x in self.paired if x.layers == 1 and x.states == 32]
        return [cell for cell in small if cell.bptt > 1]

    @property
    def total(self) -> int:
        """Bytes of training of a cell with equal updates."""
        return self.base.steps * self.base.data.batch_size * self._options.update

    @property
    def counted(self) -> int:
        """Bytes of each part of the test split that `batches` batches count."""
        return self.batches * self._options.eval_update - WARM_UP

    @property
    def parts(self) -> int:
        """Parts of the test split that are read side by side."""
        return self._options.eval_streams

    @property
    def _options(self) -> Any:
        return self.base.task

    def original(self, cells: list[Cell]) -> list[Run]:
        """Return the runs with an update every k bytes."""
        return original_runs(self.base, cells, self.size)

    def key(self, variant: str, cell: Cell) -> str:
        """Return the hash of the config of a variant of a cell."""
        if (variant, cell) not in self._keys:
            if variant == RATE:
                config = stopping(self.base, cell)
            elif variant == WINDOW:
                config = copy_config(self.windowed, window_runs([cell])[0].overrides)
            else:
                runs = self.original([cell]) if variant == ORIGINAL else equal_runs([cell])
                config = copy_config(self.base, runs[0].overrides)
            self._keys[variant, cell] = config_hash(config)
        return self._keys[variant, cell]


class Numbers(NamedTuple):
    """The numbers of a record.

    Attributes:
        bits: variant -> bits per byte on the test split, by cell, without cells that diverged.
        curves: learning curves of equal updates, by cell.
        rates: bytes per second of programs that stop at k, by cell.
        largest: largest |state| of doubly gated cells during training.
        diverged: variant -> bits per byte of cells that are worse than a uniform distribution, or
            None where they are not finite.
    """

    bits: dict[str, Bits]
    curves: dict[Cell, Curve]
    rates: dict[Cell, float]
    largest: Bits
    diverged: dict[str, dict[Cell, float | None]]

    @classmethod
    def read(cls, record: Path, plan: Plan) -> "Numbers":
        """Read the rows whose config is that of the plan; rows of other settings are left out.

        Args:
            record: the file of rows.
            plan: the report's runs.
        """
        names = {str(x): x for x in (*all_cells(), *whole_updates(all_cells()))}
        variants = (EQUAL, ORIGINAL, WINDOW)
        bits, diverged = ({name: {} for name in variants} for _ in range(2))
        out = cls(bits, {}, {}, {}, diverged)
        for key, row in read_record(record).items():
            variant, cell, numbers = row["variant"], names.get(row["cell"]), row["numbers"]
            if cell is None or key != plan.key(variant, cell):
                continue
            if variant == RATE:
                out.rates[cell] = numbers["bytes_per_second"]
                continue
            if variant == EQUAL and "max_state" in numbers:
                out.largest[cell] = numbers["max_state"]
            if has_diverged(numbers["bits_per_byte"]):
                diverged[variant][cell] = numbers["bits_per_byte"]
                continue
            bits[variant][cell] = numbers["bits_per_byte"]
            if variant == EQUAL:
                out.curves[cell] = numbers["curve"]
        return out

    def bet(self) -> dict[str, Bits]:
        """Return the numbers that the bet compares, by name of the comparison."""
        timed = at_equal_time(self.curves, lambda cell: self.rates.get(rated(cell)))
        return {
            "equal bytes, equal updates": self.bits[EQUAL],
            "equal bytes, an update every k bytes": self.bits[ORIGINAL],
            "equal time, equal updates (dev)": timed,
        }
