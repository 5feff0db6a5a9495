"""A trained byte language model for use: bits per byte of texts, generation, streams."""

import functools
import os
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float

from flaxae.config import Config, from_json, to_json
from flaxae.config.locate import user_path
from flaxae.config.serialize import ConfigClass
from flaxae.errors import ConfigError, require
from flaxae.models.byte_lm import evaluation
from flaxae.models.byte_lm.network import ByteNetwork
from flaxae.models.byte_lm.streaming import Reader
from flaxae.models.byte_lm.streams import one_pass
from flaxae.models.byte_lm.task import ByteLMConfig
from flaxae.storage import checkpoint
from flaxae.storage import workdir as workdir_lib
from flaxae.storage.fingerprint import fingerprint
from flaxae.task import StreamCarry
from flaxae.weights import hf, module

_PART = 512  # bytes that are read at once


class ByteLM:
    """A trained byte language model.

    Attributes:
        network: the network.
        config: the config of its training.
    """

    def __init__(self, network: ByteNetwork, config: Config):
        from flaxae.training.hparams import make_hparams

        self.network, self.config = network, config
        task = config.task.make(config)
        self._reader = Reader.of(network, make_hparams(task, [config], False))

    @classmethod
    def from_pretrained(
        cls, directory: str | Path, config_class: ConfigClass | None = None
    ) -> "ByteLM":
        """Open a run's workdir, or a directory written by `save_pretrained`.

        Args:
            directory: the directory.
            config_class: the class of the task's config, or the path of the config file; needed if
                the class is not one of flaxae's own.

        Raises:
            ConfigError: if the directory contains no byte language model, or an incomplete one.
            CheckpointError: if the run's checkpoint cannot be read.
        """
        folder = user_path(directory)
        saved = (folder / hf.SINGLE).is_file()
        runs = [kind for kind in ("latest", "best") if checkpoint.steps_on_disk(folder / kind)]
        require(
            saved or bool(runs),
            f"{directory} is not a byte language model: it contains neither {hf.SINGLE} nor a run",
        )
        config = (
            from_json(hf.read_config(folder), config_class, folder)
            if saved
            else workdir_lib.stored_config(folder, config_class)
        )
        require(
            isinstance(config.task, ByteLMConfig),
            f"{directory} is a run of {type(config.task).__name__}, not a byte language model",
        )
        if not saved:
            from flaxae.training.load import load

            loaded = load(folder, config_class)
            return cls(loaded.model, loaded.config)
        config.freeze(check=False)
        task = config.task.make(config)
        abstract = nnx.eval_shape(lambda: task.init(nnx.Rngs(params=0, frozen=0)))
        network: Any = module.read(folder, abstract, StreamCarry)
        return cls(network, config)

    def save_pretrained(self, directory: str | Path) -> None:
        """Write config.json and model.safetensors.

        Args:
            directory: the directory, created if needed.

        Raises:
            ConfigError: if the directory is a run's workdir, or cannot be written to.
        """
        module.write(user_path(directory), to_json(self.config), self.network, StreamCarry)

    def bits_per_byte(self, text: str | bytes | Path) -> float:
        """Return the mean code length of a text's bytes, in one pass from the start of a stream.

        Args:
            text: a text, or a `pathlib.Path` of a file.

        Raises:
            ConfigError: if the text is empty or names a file, or the file cannot be read.
        """
        if isinstance(text, str) and len(text) < 256 and "\n" not in text:
            require(
                not os.path.isfile(text),
                f"bits_per_byte: {text!r} names a file: give pathlib.Path({text!r}) for its "
                "content, or bytes for this text itself",
            )
        data = _bytes(text)
        require(bool(data), f"bits_per_byte: {_name(text)} is empty: give at least one byte")
        batches = one_pass(np.frombuffer(data, np.uint8), _PART)
        total, count = evaluation.bits(self._reader, batches)
        return total / count

    def generate(
        self,
        prompt: str | bytes = "",
        temperature: float = 0.7,
        count: int = 200,
        seed: int = 0,
    ) -> str:
        """Continue a prompt.

        Args:
            prompt: the text before the generated one; "": the start of a file.
            temperature: divisor of the scores; 0: always the likeliest byte.
            count: number of bytes.
            seed: seed of the draws.

        Returns:
            The continuation; bytes that are not UTF-8 become U+FFFD.

        Raises:
            ConfigError: if the temperature is negative, or count is not positive.
        """
        require(temperature >= 0, f"generate: temperature={temperature} must not be negative")
        require(count >= 1, f"generate: count={count} must be at least 1")
        data = _bytes(prompt)
        made = evaluation.generate(self._reader, data, 1, count, temperature, seed)[0]
        return made.decode("utf-8", "replace")

    def stream(self) -> "ByteStream":
        """Return a new stream, which reads byte by byte in constant memory."""
        return ByteStream(self._reader, self._fingerprint)

    @functools.cached_property
    def _fingerprint(self) -> str:
        """Hash of the weights, which a stream's state names."""
        flat = nnx.to_flat_state(nnx.state(self.network, nnx.Not(StreamCarry)))
        return fingerprint({"/".join(map(str, path)): var[...] for path, var in flat})


class ByteStream:
    """A stream of bytes that a network reads as they come.

    Attributes:
        log_probs: log-probabilities of the next byte, natural logarithms, (256,).
    """

    log_probs: Float[np.ndarray, "256"]

    def __init__(self, reader: Reader, model: str):
        self._reader, self._state, self._model = reader, reader.zero(1), model
        self.push(b"\0")  # the separator before a file

    def push(self, data: str | bytes) -> "ByteStream":
        """Read bytes; return the stream."""
        for part in evaluation.parts(np.frombuffer(_bytes(data), np.uint8)):
            x = jnp.asarray(part, jnp.int32)[None]  # (1, T)
            logits, self._state = self._reader.read(self._state, x)
            last = np.asarray(logits[0, -1], np.float64)
            self.log_probs = (last - np.logaddexp.reduce(last)).astype(np.float32)
        return self

    @property
    def state(self) -> dict[str, np.ndarray]:
        """The stream's state: name -> array, with which another stream may continue."""
        flat = nnx.to_flat_state(self._state)
        named = {"/".join(map(str, path)): np.asarray(var[...]) for path, var in flat}
        model = np.frombuffer(self._model.encode(), np.uint8)
        return named | {"log_probs": self.log_probs, "model": model}

    def restore(self, state: dict[str, np.ndarray]) -> "ByteStream":
        """Continue from the state of a stream of the same model; return the stream.

        Raises:
            ConfigError: if it is a state of another model.
        """
        now = self.state
        wrong = [name for name in now if name not in state]
        wrong += [name for name in state if name not in now]
        wrong += [
            f"{name} is {state[name].shape}, not {now[name].shape}"
            for name in now
            if name in state and state[name].shape != now[name].shape
        ]
        require(not wrong, f"the state belongs to another model: {', '.join(wrong)}")
        require(
            bool(np.array_equal(state["model"], now["model"])),
            "the state belongs to another model: continue it with the model that made it",
        )
        flat = dict(nnx.to_flat_state(self._state))
        self._state = nnx.State.from_flat_path(
            {
                path: var.replace(jnp.asarray(state["/".join(map(str, path))], var[...].dtype))
                for path, var in flat.items()
            }
        )
        self.log_probs = np.asarray(state["log_probs"], np.float32)
        return self


def _bytes(text: str | bytes | Path) -> bytes:
    if isinstance(text, bytes):
        return text
    if isinstance(text, str):
        return text.encode("utf-8", "surrogateescape")
    try:
        return user_path(text).read_bytes()
    except OSError as e:
        raise ConfigError(f"{text} cannot be read: {e.strerror or e}") from None


def _name(text: str | bytes | Path) -> str:
    return str(text) if isinstance(text, Path) else "the text"
