"""The sections of a config, which every family shares, and the config that they make up."""

import dataclasses
import enum
import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, cast

from flaxae.config.fields import Section
from flaxae.config.ranges import (
    Checked,
    Count,
    NonNegative,
    Positive,
    Range,
    Rate,
    Seed,
    Share,
    Strings,
    Whole,
    Wholes,
)
from flaxae.errors import ConfigError, require


class Optimizer(enum.Enum):
    """Update rule."""

    ADAMW = "adamw"
    ADAFACTOR = "adafactor"
    SGD = "sgd"
    LION = "lion"
    MUON = "muon"


class Schedule(enum.Enum):
    """Course of the learning rate after warmup."""

    CONSTANT = "constant"
    LINEAR = "linear"
    COSINE = "cosine"
    WSD = "wsd"
    RSQRT = "rsqrt"


class Mode(enum.Enum):
    """Direction in which a metric improves."""

    MIN = "min"
    MAX = "max"


@dataclasses.dataclass
class OptimConfig(Section):
    """The optimizer and its learning-rate schedule.

    `groups` is ((path regex, lr multiplier, decay multiplier), ...); the first group whose regex
    matches the path of a parameter applies to it.
    """

    section: ClassVar[str] = "optim"

    name: Optimizer = Optimizer.ADAMW
    lr: NonNegative = 1e-3
    schedule: Schedule = Schedule.COSINE
    warmup: Whole = 0  # steps of linear increase from 0
    decay_steps: Whole = 0  # the schedule's horizon (see docs/running.md); 0: the first `steps`
    final_lr: Share = 0.0  # the learning rate from the horizon on, as a share of lr
    wsd_decay: Annotated[float, Range(0, 1, "(]")] = 0.2  # share of the horizon in which wsd decays
    b1: Rate = 0.9
    b2: Rate = 0.999
    eps: Positive = 1e-8
    momentum: Rate = 0.9  # of sgd and muon
    weight_decay: NonNegative = 0.0
    clip_norm: NonNegative = 1.0  # largest norm of the gradient; 0: no clipping
    groups: Annotated[tuple, Checked()] = ()
    ema: Rate = 0.0  # decay of the parameters' moving average; 0: off

    def validate(self) -> None:
        """Check the groups."""
        for group in self.groups:
            ok = isinstance(group, (tuple, list)) and len(group) == 3 and isinstance(group[0], str)
            require(
                ok, f"optim.groups: {group!r} is not (path regex, lr multiplier, decay multiplier)"
            )
            for factor in group[1:]:
                Range(0).check(f"optim.groups: {group!r}: a multiplier", factor)
            try:
                re.compile(group[0])
            except re.error as e:
                raise ConfigError(
                    f"optim.groups: {group[0]!r} is not a regular expression ({e})"
                ) from None


@dataclasses.dataclass
class DataConfig(Section):
    """Fields of the data that every family has; a family may have a subclass with more."""

    section: ClassVar[str] = "data"

    seed: Seed = 0  # seed of the order of batches and of the splits
    batch_size: Count = 64  # rows per step, over all devices
    cache: str = ".cache"  # folder of tokenizers and prepared corpora
    prefetch: Whole = 2  # batches prepared in advance; 0: each batch when it is needed


@dataclasses.dataclass
class MeshConfig(Section):
    """Sizes of the mesh axes; 0: all remaining devices."""

    section: ClassVar[str] = "mesh"

    replica: Whole = 1
    fsdp: Whole = 0
    model: Whole = 1

    def validate(self) -> None:
        """Check that at most one size is 0."""
        sizes = (self.replica, self.fsdp, self.model)
        require(
            sizes.count(0) <= 1,
            f"mesh={sizes}: at most one axis may be 0 (= the rest)",
        )


@dataclasses.dataclass
class LogConfig(Section):
    """Logging of metrics."""

    section: ClassVar[str] = "log"

    every: Count = 50  # steps between log lines
    tensorboard: bool = True
    progress: bool = True  # a progress bar


@dataclasses.dataclass
class EvalConfig(Section):
    """Evaluation and samples during training."""

    section: ClassVar[str] = "eval"

    every: Whole = 0  # steps between evaluations; 0: only at the end
    splits: Strings = ("dev",)
    sample_every: Whole = 0  # steps between samples; 0: only at the end
    num_samples: Whole = 4  # 0: none
    num_batches: Whole = 0  # batches per evaluation; 0: the whole split


@dataclasses.dataclass
class SaveConfig(Section):
    """Checkpoints."""

    section: ClassVar[str] = "save"

    every: Count = 500  # steps between checkpoints
    keep: Count = 1  # number of latest checkpoints
    keep_every: Whole = 0  # checkpoints of multiples of this step are never deleted; 0: none
    best_metric: str = ""  # such as "dev/loss"; "": no best checkpoint
    best_mode: Mode = Mode.MIN


@dataclasses.dataclass
class TaskConfig(Section):
    """Base class of the families' configs: `make(config)` builds the Task.

    Attributes:
        data_class: class of `Config.data` for this task.
    """

    section: ClassVar[str] = "task"
    data_class: ClassVar[type[DataConfig]] = DataConfig

    def make(self, config: "Config") -> Any:
        """Return the Task of a config whose task section this is."""
        raise NotImplementedError(f"{type(self).__name__}.make")

    @classmethod
    def open_autoencoder(cls, source: str | Path) -> Any:
        """Open a trained run of this task in the latent-space explorer.

        A family of text autoencoders overrides it.

        Args:
            source: the run's workdir, or a directory or Hub id of a saved model.

        Returns:
            An object with the methods of `flaxae.text_autoencoder.protocol.Autoencoder`.

        Raises:
            ConfigError: if there is no such run, or the task is not a text autoencoder.
        """
        raise ConfigError(
            f"{source} is a run of {cls.__name__}, which is not a text autoencoder: it has no "
            "open_autoencoder"
        )


@dataclasses.dataclass
class Config(Section):
    """An experiment: the task, its data, and how it is trained."""

    task: TaskConfig = dataclasses.field(default_factory=TaskConfig)
    data: DataConfig = cast(DataConfig, None)  # not given: the defaults of the task's data_class
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    log: LogConfig = dataclasses.field(default_factory=LogConfig)
    eval: EvalConfig = dataclasses.field(default_factory=EvalConfig)
    save: SaveConfig = dataclasses.field(default_factory=SaveConfig)
    steps: Count = 1000
    seed: Seed = 0  # seed of the initialisation and of ctx.key
    frozen_seed: Seed = 0  # seed of random parts that are never trained
    accumulate: Count = 1  # micro-batches per step
    steps_per_call: Count = 1  # steps per dispatch
    max_bad_steps: Whole = 0  # steps without a finite loss before the run fails
    resume_from: str = ""  # a workdir whose parameters the run starts from, as far as they match
    pretrained: str = ""  # directory, file or Hub id of pretrained weights
    profile: Wholes = ()  # (first step, last step) of a profiler trace

    @classmethod
    def dotted(cls, field: str) -> str:
        """Return the name of a field of the config itself in messages."""
        return field

    def __post_init__(self) -> None:
        if self.data is None:
            self.data = self.task.data_class()

    def validate(self) -> None:
        """Check what concerns several sections."""
        task, kind = type(self.task), self.task.data_class
        require(
            type(self.data) is kind,
            f"data: {task.__name__} needs a {kind.__name__}, not a {type(self.data).__name__}",
        )
        n = self.steps_per_call
        periods = {"steps": self.steps, "log.every": self.log.every, "save.every": self.save.every}
        periods |= {"eval.every": self.eval.every, "eval.sample_every": self.eval.sample_every}
        periods |= {"save.keep_every": self.save.keep_every}
        for name, value in periods.items():
            require(value % n == 0, f"{name}={value} is not a multiple of steps_per_call={n}")
        profile_ok = self.profile == () or (
            len(self.profile) == 2 and self.profile[0] < self.profile[1]
        )
        require(profile_ok, f"profile={self.profile} is not (first step, last step)")
        require(
            self.data.batch_size % self.accumulate == 0,
            f"data.batch_size={self.data.batch_size} is not divisible by "
            f"accumulate={self.accumulate}",
        )
