"""Bits per byte of texts by general compressors, alone or after the training text.

A compressor that has read the training text before is "primed": its size of a text is that of both
texts in one, less that of the training text.
"""

import bz2
import dataclasses
import gzip
import importlib
import importlib.util
import lzma
from collections.abc import Callable

from flaxae.errors import ConfigError

_XZ_LEVEL = 9
_XZ_LEVEL_DICTIONARY, _XZ_LARGEST_DICTIONARY = 1 << 26, 3 << 29  # bytes
# The best of the orders 16, 24 and 32 on the dev split of the library of Python 3.11, primed. The
# model of its 12 MB takes more than 256 MB, and a model that fills its memory starts again.
PPMD_ORDER, PPMD_MEMORY = 32, 1 << 30
_ZPAQ_LEVEL = 5


@dataclasses.dataclass(frozen=True)
class Compressor:
    """A compressor.

    Attributes:
        name: name and settings.
        size: returns the bytes of a compressed text, container included.
        reach: bytes of the past that it can use at most.
        package: the package that it needs; "": it is part of Python.
    """

    name: str
    size: Callable[[bytes], int]
    reach: int = 1 << 62
    package: str = ""

    @property
    def missing(self) -> str:
        """Return a note on the package if it is not installed, else ""."""
        if not self.package or importlib.util.find_spec(self.package):
            return ""
        return f"not installed: pip install {self.package}"

    def bits_per_byte(self, text: bytes, before: bytes = b"") -> float:
        """Compress a text.

        Args:
            text: at least one byte.
            before: text that primes the compressor; b"": none.

        Raises:
            ConfigError: if its package is not installed, or `before` is out of its reach.
        """
        if self.missing:
            raise ConfigError(f"{self.name} is {self.missing}")
        if not before:
            return 8 * self.size(text) / len(text)
        if self.reach < len(before) + len(text):
            raise ConfigError(
                f"{self.name} cannot be primed with {len(before):,} bytes: it uses {self.reach:,}"
                " bytes of the past"
            )
        return 8 * (self.size(before + text) - self.size(before)) / len(text)


def _gzip(data: bytes) -> int:
    return len(gzip.compress(data, 9, mtime=0))


def _bzip2(data: bytes) -> int:
    return len(bz2.compress(data, 9))


def _xz(data: bytes) -> int:
    size = min(max(_XZ_LEVEL_DICTIONARY, len(data)), _XZ_LARGEST_DICTIONARY)
    preset = _XZ_LEVEL | lzma.PRESET_EXTREME
    filters = [{"id": lzma.FILTER_LZMA2, "preset": preset, "dict_size": size}]
    return len(lzma.compress(data, filters=filters))


def _ppmd(data: bytes) -> int:
    encoder = importlib.import_module("pyppmd").Ppmd7Encoder(PPMD_ORDER, PPMD_MEMORY)
    return len(encoder.encode(data)) + len(encoder.flush())


def _zpaq(data: bytes) -> int:
    # One thread: several would compress blocks that do not know each other.
    return len(importlib.import_module("zpaq").compress(data, level=_ZPAQ_LEVEL, threads=1))


GZIP = Compressor("gzip -9", _gzip, reach=1 << 15)
BZIP2 = Compressor("bzip2 -9", _bzip2, reach=900_000)
XZ = Compressor("xz -9e", _xz, reach=_XZ_LARGEST_DICTIONARY)
PPMD = Compressor(f"PPMd variant H, order {PPMD_ORDER}", _ppmd, package="pyppmd")
ZPAQ = Compressor(f"zpaq -m{_ZPAQ_LEVEL}", _zpaq, package="zpaq")
COMPRESSORS = (GZIP, BZIP2, XZ, PPMD, ZPAQ)
# gzip and bzip2 reach too short, and zpaq sets its model by the whole input: with the training text
# before them, random letters cost less than their entropy.
PRIMED = (XZ, PPMD)
