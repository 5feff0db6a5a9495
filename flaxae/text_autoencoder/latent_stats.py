"""Statistics of a trained model's codes, and their file."""

from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from flaxae.errors import ConfigError, require


class Statistics(NamedTuple):
    """Mean and standard deviation of the clean codes of training texts.

    Attributes:
        mean, std: one per number of a code.
        count: texts that were encoded.
    """

    mean: Float[np.ndarray, "L Z"]
    std: Float[np.ndarray, "L Z"]
    count: int

    @classmethod
    def from_codes(cls, codes: Float[np.ndarray, "n L Z"]) -> Self:
        """Return the statistics of codes."""
        return cls(codes.mean(0), codes.std(0), len(codes))


def write(path: Path, statistics: Statistics) -> None:
    """Write statistics as safetensors."""
    arrays = {"mean": statistics.mean, "std": statistics.std}
    arrays |= {"count": np.asarray([statistics.count])}
    save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, path)


def read(path: Path, shape: tuple[int, int]) -> Statistics:
    """Return the statistics that `write` wrote.

    Args:
        path: the file.
        shape: the shape of the model's codes.

    Raises:
        ConfigError: if the file is missing or damaged, or of codes of another shape.
    """
    try:
        arrays = load_file(path)
        mean, std, count = arrays["mean"], arrays["std"], int(arrays["count"][0])
    except FileNotFoundError:
        raise ConfigError(f"{path} is missing: save the model again") from None
    except (OSError, SafetensorError, KeyError, IndexError) as e:
        raise ConfigError(f"{path} does not contain mean, std and count: {e}") from None
    require(
        mean.shape == std.shape == shape,
        f"{path}: statistics of shape {mean.shape}, but the model's codes have {shape}",
    )
    return Statistics(mean, std, count)
