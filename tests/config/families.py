"""The classes of options of all of flaxae."""

import dataclasses
import functools
import importlib
import pkgutil

import flaxae
from flaxae.config import Section, TaskConfig

SKIPPED = {"flaxae.nn.gpu", "flaxae.data.wikipedia.beam"}  # need packages that tests lack


@functools.cache
def config_classes() -> list[type]:
    """Return all dataclasses of flaxae that hold options."""
    found = {}
    for module in pkgutil.walk_packages(flaxae.__path__, "flaxae."):
        if module.name.endswith("__main__") or any(module.name.startswith(s) for s in SKIPPED):
            continue
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, type) and dataclasses.is_dataclass(value):
                options = issubclass(value, Section) or value.__name__.endswith("Config")
                if options or value.__name__ == "Sampling":
                    found[value] = None
    return list(found)


def task_configs() -> list[type[TaskConfig]]:
    """Return the task configs of all families."""
    kinds = {kind for kind in config_classes() if issubclass(kind, TaskConfig)} - {TaskConfig}
    return sorted(kinds, key=lambda kind: f"{kind.__module__}.{kind.__qualname__}")
