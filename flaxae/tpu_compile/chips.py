"""Published peaks of TPU chips, from Google's pages "TPU v4", "v5e", "v5p" and "v6e"."""

import dataclasses

from flaxae.errors import ConfigError

GB, GIB = 1e9, 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """Published peaks of one chip.

    Attributes:
        flops: dense bfloat16 FLOP/s.
        hbm: memory in bytes; the compiler reserves a part of it.
        hbm_bandwidth: memory bandwidth in bytes/s.
        ici_bandwidth: bytes/s that leave the chip over all of its links, half of the published
            bidirectional bandwidth.
        config: libtpu's name for the chip as VMs use it, if it differs from the topology's.
    """

    flops: float
    hbm: float
    hbm_bandwidth: float
    ici_bandwidth: float
    config: str = ""


CHIPS = {
    "v4": Chip(275e12, 32 * GIB, 1228 * GB, 300 * GB, config="megacore"),
    "v5e": Chip(197e12, 16 * GIB, 819 * GB, 200 * GB),
    "v5p": Chip(459e12, 95 * GIB, 2765 * GB, 600 * GB),
    "v6e": Chip(918e12, 32 * GIB, 1638 * GB, 400 * GB),
}


def chip_of(topology: str) -> Chip:
    """Return the chip of a topology such as "v5e:2x4".

    Raises:
        ConfigError: if the table does not contain the chip.
    """
    name = topology.partition(":")[0]
    if name not in CHIPS:
        raise ConfigError(
            f"--topology={topology}: no chip {name!r}; give one of {', '.join(CHIPS)} with its"
            " slice, such as v5e:2x4 or v5p:2x2x4"
        )
    return CHIPS[name]
