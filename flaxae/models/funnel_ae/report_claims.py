"""Claims about the runs of the report, with their verdicts, and the table of the runs."""

import dataclasses
import math
from typing import Any

import numpy as np

from flaxae.measures import stats
from flaxae.measures.claims import cell, claims_table, look_up, verdict
from flaxae.sweep.record import Row

# Heading -> path of the number. All are of held-out rows, without skips.
COLUMNS = {
    "cross entropy (nats)": "ce",
    "exact match": "exact_match",
    "token accuracy": "token_accuracy",
    "difference variance, 8 states": "differences.0",
    "4 states": "differences.1",
    "own pair / uniform, 8 to 4": "attention.0",
    "4 to 2": "attention.1",
    "components of the code, 99 %": "code.components_99",
}


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim that the mean of a number over the seeds is below (or above) a bound.

    Attributes:
        text: the claim as a sentence.
        variant: name of the variant.
        path: path of the number.
        bound: the bound.
        below: whether the number is claimed to be below the bound, or above.
        minus: name of the variant whose number with the same seed is subtracted; "": none.
    """

    text: str
    variant: str
    path: str
    bound: float
    below: bool = True
    minus: str = ""

    def evaluate(self, rows: list[Row]) -> dict[str, Any]:
        """Return the mean with its interval, and the verdict.

        It is unclear with one seed, and "not measured" without any.
        """
        values = self._numbers(rows, self.variant)
        if self.minus:
            others = self._numbers(rows, self.minus)
            values = {seed: x - others[seed] for seed, x in values.items() if seed in others}
        finite = [x for x in values.values() if math.isfinite(x)]
        found = stats.t_interval(finite if len(finite) == len(values) else [])
        known = verdict(found.low, found.high, self.bound, self.below)
        return {
            "claim": self.text,
            "mean": found.value,
            "low": found.low,
            "high": found.high,
            "bound": self.bound,
            "below": self.below,
            "seeds": len(values),
            "verdict": known if values else "not measured",
        }

    def _numbers(self, rows: list[Row], variant: str) -> dict[int, float]:
        mine = (row for row in rows if row["variant"] == variant)
        return {row["seed"]: look_up(row["numbers"], self.path) for row in mine}


SEPARATORS = {"haar": "Haar", "ff_sep": "feed-forward", "linear": "linear"}
SKIPS = {
    "skip_linear": "annealed to 0 by steps 100 and 200",
    "skip_late": "annealed to 0 by steps 750 and 1,000",
    "skip_half": "annealed from .5 to 0 by steps 750 and 1,000",
    "skip_sigmoid": "with a sigmoid schedule around step 500",
    "skip_residual": "as a residual projection",
}
SHAPES = {
    "share": "with shared blocks",
    "pool_all": "without pool_q_only",
    "two_blocks": "of two blocks",
    "width_32": "of width 32",
    "width_128": "of width 128",
    "haar_detail": "with the loss of details",
}
CLOSED = 9  # index of the evaluation after 1,000 steps
CODES = {"kl": "a KL term", "mmd": "an MMD term", "blocks": "latents of all blocks"}
CLAIMS = (
    Claim("random codes: cross entropy is ln 64 up to .03", "random", "from_uniform", 0.03),
    Claim("random codes: their std is that of real codes up to 10 %", "random", "moments.std", 0.1),
    Claim("random codes: the same for the mean, in std", "random", "moments.mean", 0.1),
    Claim(
        "random codes: at least 1 nat worse than trained ones", "random", "ce", 1.0, False, "haar"
    ),
    Claim(
        "a frozen encoder: higher cross entropy than a trained one",
        "frozen",
        "ce",
        0.0,
        False,
        "haar",
    ),
    *(Claim(f"{v} separators: cross entropy", k, "ce", 0.05) for k, v in SEPARATORS.items()),
    *(
        Claim(f"{v} separators: exact match", k, "exact_match", 0.99, False)
        for k, v in SEPARATORS.items()
    ),
    Claim("repeat: hardly any exact match", "repeat", "exact_match", 0.05),
    Claim("interpolation loses tokens: exact match", "interp", "exact_match", 0.99),
    *(
        Claim(f"a skip {v} hurts: higher cross entropy than without", k, "ce", 0.0, False, "haar")
        for k, v in SKIPS.items()
    ),
    Claim(
        "while a skip is open (weight of at least .5), training has a low cross entropy",
        "skip_late",
        "open.train",
        0.05,
    ),
    Claim(
        "while it is open, the code alone is not enough: cross entropy at skip 0",
        "skip_late",
        "open.ce",
        1.0,
        False,
    ),
    Claim(
        "when all its skips have closed (step 1,000), the code is not yet read",
        "skip_late",
        f"curve.values.{CLOSED}",
        1.0,
        False,
    ),
    Claim("500 steps later it is: cross entropy", "skip_late", "ce", 0.05),
    *(
        Claim(
            f"{v}: upsampled pairs differ less than the originals, {n} states",
            k,
            f"differences.{level}",
            1.0,
        )
        for k, v in (SEPARATORS | {"interp": "interpolation"}).items()
        for level, n in enumerate((8, 4))
    ),
    *(
        Claim(
            f"attention that pools {n} states mostly reads the own pair (haar)",
            "haar",
            f"attention.{level}",
            n / 4,
            False,
        )
        for level, n in enumerate((8, 4))
    ),
    *(Claim(f"a model {v}: exact match", k, "exact_match", 0.99, False) for k, v in SHAPES.items()),
    Claim(
        "the loss of details lowers 1 - R², 8 states",
        "haar_detail",
        "unexplained.0",
        0.0,
        True,
        "haar",
    ),
    *(
        Claim(f"codes with {v}: less than .05 nats more", k, "ce", 0.05, True, "code_64")
        for k, v in CODES.items()
    ),
)


def verdicts(rows: list[Row]) -> list[dict[str, Any]]:
    """Return the verdict of each claim; see `Claim.evaluate`."""
    return [claim.evaluate(rows) for claim in CLAIMS]


def page(rows: list[Row], variants: list[str], quick: bool) -> str:
    """Return the table of the runs and that of the claims, as Markdown.

    Args:
        rows: rows of the record.
        variants: names of the variants, in order.
        quick: whether the runs are those of the small variant.
    """
    lines = ["# A Funnel AE of uniform tokens", ""]
    if quick:
        lines += ["**QUICK: few steps of a narrow model, to test the program.**", ""]
    lines += [
        "Mean over seeds with 95 % t intervals; held-out rows, decoded without skips. Difference "
        "variance is Var(y_odd - y_even) of upsampled states over that of the encoder's.",
        "",
        "| run | seeds | " + " | ".join(COLUMNS) + " |",
        "|---" * (2 + len(COLUMNS)) + "|",
    ]
    for name in variants:
        numbers = [row["numbers"] for row in rows if row["variant"] == name]
        if numbers:
            columns = ([look_up(n, path) for n in numbers] for path in COLUMNS.values())
            cells = [cell([x for x in column if np.isfinite(x)]) for column in columns]
            lines.append(f"| {name} | {len(numbers)} | {' | '.join(cells)} |")
    missing = [name for name in variants if not any(row["variant"] == name for row in rows)]
    if missing:
        lines += ["", f"Without a finished run: {', '.join(missing)}."]
    return "\n".join(lines) + "\n\n" + claims_table(verdicts(rows), "mean")
