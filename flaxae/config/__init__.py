"""Typed configs: sections of checked fields, JSON, and the command lines that set them.

A config file's `get_config()` returns a `Config`; `--config.a.b=v` overrides are type-checked.
Sections are mutable while flags are parsed and frozen after that.
"""

from flaxae.config import flags as flags
from flaxae.config.fields import Section as Section
from flaxae.config.fields import field_types as field_types
from flaxae.config.fields import get_field as get_field
from flaxae.config.fields import iterate_fields as iterate_fields
from flaxae.config.fields import set_field as set_field
from flaxae.config.sections import Config as Config
from flaxae.config.sections import DataConfig as DataConfig
from flaxae.config.sections import EvalConfig as EvalConfig
from flaxae.config.sections import LogConfig as LogConfig
from flaxae.config.sections import MeshConfig as MeshConfig
from flaxae.config.sections import Mode as Mode
from flaxae.config.sections import OptimConfig as OptimConfig
from flaxae.config.sections import Optimizer as Optimizer
from flaxae.config.sections import SaveConfig as SaveConfig
from flaxae.config.sections import Schedule as Schedule
from flaxae.config.sections import TaskConfig as TaskConfig
from flaxae.config.serialize import config_hash as config_hash
from flaxae.config.serialize import copy_config as copy_config
from flaxae.config.serialize import differences as differences
from flaxae.config.serialize import flatten_json as flatten_json
from flaxae.config.serialize import from_json as from_json
from flaxae.config.serialize import own_task_config as own_task_config
from flaxae.config.serialize import to_json as to_json
from flaxae.config.serialize import without_moved_fields as without_moved_fields
from flaxae.errors import ConfigError as ConfigError
from flaxae.errors import require as require
