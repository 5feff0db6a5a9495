"""Full-size programs compiled for a TPU slice without one: does it fit, and what bounds it.

`python -m flaxae.tpu_compile --config=… --topology=v5e:2x4`; needs the extra `tpu` (libtpu).
"""

from flaxae.tpu_compile.program import DoesNotFit, Report, analyse, compile_step, topology
from flaxae.tpu_compile.search import find_batch

__all__ = ["DoesNotFit", "Report", "analyse", "compile_step", "find_batch", "topology"]
