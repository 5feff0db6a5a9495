"""Sweeps: many runs of one config, as lanes of shared programs or in processes side by side."""

from flaxae.sweep.groups import group_by_shape as group_by_shape
from flaxae.sweep.runs import CODES as CODES
from flaxae.sweep.runs import exit_code as exit_code
from flaxae.sweep.runs import sweep as sweep
