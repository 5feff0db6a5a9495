"""Full-size programs compiled for a TPU slice without one: do they fit, and what limits them?

`python -m flaxae.tpu_compile --config=FILE --topology=v5e:2x4` needs the extra `tpu` (libtpu).
"""

from flaxae.tpu_compile.compiler import DoesNotFit, abstract_step, compile_step, topology
from flaxae.tpu_compile.report import Report, analyse
from flaxae.tpu_compile.search import find_batch

__all__ = [
    "DoesNotFit",
    "Report",
    "abstract_step",
    "analyse",
    "compile_step",
    "find_batch",
    "topology",
]
