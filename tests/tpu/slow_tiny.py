"""A config of the tiny family for the fake TPU, with 40 steps of at least 0.1 seconds."""

import dataclasses
import time
from typing import Any

from tiny.family import Problems, TinyConfig, TinyTask, tiny_config

from flaxae.config import Config


class SlowProblems(Problems):
    def batch(self, step: int) -> Any:
        time.sleep(0.1)
        return super().batch(step)


class SlowTask(TinyTask):
    def data(self, split: str) -> Problems:
        return (SlowProblems if split == "train" else Problems)(self.config, split)


@dataclasses.dataclass
class SlowConfig(TinyConfig):
    def make(self, config: Config) -> TinyTask:
        return SlowTask(config)


def get_config() -> Config:
    config = tiny_config(steps=40, eval__every=40, save__every=40)
    config.task = SlowConfig()
    return config
