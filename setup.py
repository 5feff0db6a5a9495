"""Installs configs/ as `flaxae.configs`; all else about the package is in pyproject.toml.

An installed flaxae then finds the files that its commands and pages name: `configs/FAMILY/FILE.py`
is read from the current folder if it is there, and from the package if it is not.
"""

from setuptools import find_namespace_packages, setup

CONFIGS = "flaxae.configs"

setup(
    packages=[
        *find_namespace_packages(include=["flaxae*"]),
        CONFIGS,
        *(f"{CONFIGS}.{family}" for family in find_namespace_packages("configs")),
    ],
    package_dir={CONFIGS: "configs"},
)
