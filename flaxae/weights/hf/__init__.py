"""Hugging Face directories <-> parameters, through one table per model; strict in both directions.

A directory contains config.json and model.safetensors, or model.safetensors.index.json with the
shards that it names. Each process reads only the slices of a parameter that its devices hold.
"""

from flaxae.weights.hf.directory import CONFIG as CONFIG
from flaxae.weights.hf.directory import INDEX as INDEX
from flaxae.weights.hf.directory import SINGLE as SINGLE
from flaxae.weights.hf.directory import read_config as read_config
from flaxae.weights.hf.directory import read_json as read_json
from flaxae.weights.hf.directory import read_model_config as read_model_config
from flaxae.weights.hf.directory import resolve as resolve
from flaxae.weights.hf.reading import read_params as read_params
from flaxae.weights.hf.table import Table as Table
from flaxae.weights.hf.table import Weight as Weight
from flaxae.weights.hf.tensors import Tensors as Tensors
from flaxae.weights.hf.tensors import TensorSource as TensorSource
from flaxae.weights.hf.writing import write as write
