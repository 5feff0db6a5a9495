"""An alias of `flaxae.activations.read`: hidden states of a language model, read or replaced.

`flaxae.activations.read` is where this code lives; nothing in `flaxae/` imports this module.
"""

from flaxae.activations.read import Recorder as Recorder
from flaxae.activations.read import collect as collect
from flaxae.activations.read import hook_path as hook_path
from flaxae.activations.read import last_positions as last_positions
from flaxae.activations.read import recorder as recorder
from flaxae.activations.read import truncated as truncated
