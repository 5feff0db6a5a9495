"""The views of the explorer, one file each."""

from flaxae.explore.views.arithmetic import Arithmetic
from flaxae.explore.views.around import Around
from flaxae.explore.views.between import Between
from flaxae.explore.views.map import Map
from flaxae.explore.views.neighbours import Neighbours
from flaxae.explore.views.reconstruct import Reconstruct
from flaxae.explore.views.samples import Samples

VIEWS = {
    view.name: view for view in (Between, Map, Around, Arithmetic, Samples, Neighbours, Reconstruct)
}

__all__ = ["VIEWS"]
