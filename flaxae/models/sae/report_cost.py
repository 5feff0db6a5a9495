"""Counted cost of a dictionary: FLOP, bytes, and the time that they take on an accelerator."""

from typing import NamedTuple


class Chip(NamedTuple):
    """An accelerator by its data sheet.

    Attributes:
        name: its name.
        count: number of chips.
        flops: FLOP/s of a chip in matrix products of float32 as these programs make them (TF32 on
            a GPU, bfloat16 passes on a TPU).
        bandwidth: bytes/s of a chip's memory.
    """

    name: str
    count: int
    flops: float
    bandwidth: float


CHIPS = (Chip("H100", 1, 495e12, 3.35e12), Chip("v5e-8", 8, 197e12, 819e9))
USE_OF_FLOPS, USE_OF_BANDWIDTH = 0.4, 0.7  # assumed shares of the peaks
PRODUCTS = 8  # of a step of top-k: 2 forwards, 3 backwards, 3 of AuxK
PASSES = 20  # reads and writes of the latents of a step: selection, activity, gradients
STATE_PASSES = 8  # reads and writes of each parameter of a step, with Adam's moments


# Bounds of the programs that were compiled for a v5e-8 (docs/lab_notes/2026-11-30.md), both by the
# traffic of the memory: seconds for 2,048 states of a step, and for 16,384 tokens of a pass.
COMPILED_STEP, COMPILED_PASS = (2048, 0.54e-3), (16384, 7.6e-3)
COMPILED_FOR = CHIPS[1]


class Cost(NamedTuple):
    """FLOP and bytes."""

    flops: float
    bytes: float

    def seconds(self, chip: Chip) -> float:
        """Return the time on a number of chips, by the larger of computation and memory."""
        compute = self.flops / (chip.count * chip.flops * USE_OF_FLOPS)
        return max(compute, self.bytes / (chip.count * chip.bandwidth * USE_OF_BANDWIDTH))


def language_model(
    tokens: float,
    *,
    layers: int,
    width: int,
    keys: int,
    hidden: int,
    length: int,
    batch: int = 2048,
) -> Cost:
    """Return the cost of a Llama's forward pass through some layers.

    Args:
        tokens: number of tokens.
        layers: layers that run.
        width: features of the residual stream.
        keys: features of the keys, and of the values.
        hidden: hidden units of the MLP.
        length: tokens per row; a token attends to half of them on average.
        batch: tokens per pass, for which the weights are read once.
    """
    weights = 2 * width * width + 2 * width * keys + 3 * width * hidden
    attention = 2 * length * width  # scores and values, two FLOP each, of half of the tokens
    read = 4 * (layers * weights / batch + layers * (6 * width + 3 * hidden))
    return Cost(tokens * layers * (2.0 * weights + attention), tokens * read)


def dictionary(tokens: float, *, d_in: int, d_sae: int, batch: int = 2048) -> Cost:
    """Return the cost of training a top-k dictionary with AuxK.

    Args:
        tokens: number of tokens.
        d_in: features of a state.
        d_sae: number of latents.
        batch: tokens per step.
    """
    per_token = 4.0 * (PASSES * d_sae + STATE_PASSES * 2 * d_in * d_sae / batch)
    return Cost(2.0 * PRODUCTS * d_in * d_sae * tokens, per_token * tokens)


def with_compiled_traffic(cost: Cost, tokens: float, bound: tuple[int, float]) -> Cost:
    """Return a cost with the bytes of a compiled program, if these are more than the counted ones.

    Args:
        cost: the counted cost.
        tokens: number of tokens.
        bound: tokens of a call of the program, and the seconds of its traffic at the peak.
    """
    count, seconds = bound
    traffic = tokens / count * seconds * COMPILED_FOR.count * COMPILED_FOR.bandwidth
    return cost._replace(bytes=max(cost.bytes, traffic))


def table(tokens: float = 8e6) -> str:
    """Return the cost of SmolLM2-135M's states of layer 15 and of a dictionary as Markdown."""
    parts = {
        "states: the language model to layer 15": (
            language_model(tokens, layers=16, width=576, keys=192, hidden=1536, length=256),
            COMPILED_PASS,
        ),
        "top-k dictionary, 576 to 4,608": (
            dictionary(tokens, d_in=576, d_sae=4608),
            COMPILED_STEP,
        ),
    }
    lines = [
        f"Counted, not measured, for {tokens / 1e6:g} M tokens: {100 * USE_OF_FLOPS:.0f} % of the "
        f"peak of computation or {100 * USE_OF_BANDWIDTH:.0f} % of that of memory, whichever takes "
        "longer, without compilation. Bytes are those of the programs compiled for a v5e-8, which "
        "are more than the arrays that must be read and written.",
        "",
        "| part | PFLOP | TB | " + " | ".join(f"{chip.name}, s" for chip in CHIPS) + " |",
        "|---" * (3 + len(CHIPS)) + "|",
    ]
    for name, (counted, bound) in parts.items():
        cost = with_compiled_traffic(counted, tokens, bound)
        times = " | ".join(f"{cost.seconds(chip):.1f}" for chip in CHIPS)
        lines.append(f"| {name} | {cost.flops / 1e15:.2f} | {cost.bytes / 1e12:.1f} | {times} |")
    return "\n".join(lines) + "\n"
