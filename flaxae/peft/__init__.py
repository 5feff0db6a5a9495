"""Adapters on any model: LoRA, rsLoRA, DoRA, IA3, bias-only; PEFT's files in both directions."""

from flaxae.peft.apply import active_names as active_names
from flaxae.peft.apply import adapter_configs as adapter_configs
from flaxae.peft.apply import adapter_names as adapter_names
from flaxae.peft.apply import add_adapter as add_adapter
from flaxae.peft.apply import count_params as count_params
from flaxae.peft.apply import remove_adapter as remove_adapter
from flaxae.peft.apply import set_active as set_active
from flaxae.peft.apply import trainable as trainable
from flaxae.peft.configs import AdapterConfig as AdapterConfig
from flaxae.peft.configs import BiasConfig as BiasConfig
from flaxae.peft.configs import IA3Config as IA3Config
from flaxae.peft.configs import LoRAConfig as LoRAConfig
from flaxae.peft.hf_config import read_config as read_config
from flaxae.peft.hf_config import write_config as write_config
from flaxae.peft.hf_format import base_fingerprint as base_fingerprint
from flaxae.peft.hf_format import load_adapter as load_adapter
from flaxae.peft.hf_format import save_adapter as save_adapter
from flaxae.peft.layers import AdapterParam as AdapterParam
from flaxae.peft.layers import RowScale as RowScale
from flaxae.peft.merge import merge as merge
