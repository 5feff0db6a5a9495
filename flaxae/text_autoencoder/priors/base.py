"""The interface of priors, the map between codes and noise, and their files.

A prior maps codes to standard normal noise and back. Sampling decodes fresh noise. A path between
two codes is a slerp between their noises, because all points of such a slerp are likely.
"""

import json
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.numpy import load, save

from flaxae.config.ranges import SEEDS, WHOLE, Range
from flaxae.errors import ConfigError
from flaxae.foreign_json import check_fields, parse_object
from flaxae.pointers import require_content
from flaxae.storage.paths import as_path, is_remote
from flaxae.text_autoencoder.interpolation import slerp_at

JSON, ARRAYS = "prior.json", "prior.safetensors"


@runtime_checkable
class Prior(Protocol):
    """A density of clean codes, given by a map between codes and noise.

    All latents of a code are flattened to one vector of D numbers.

    Attributes:
        kind: the name of the class in prior.json, by which `load_prior` finds it.
        dim: D.
        made_for: fingerprint of the parameters of the model whose codes these are; "": unknown.
    """

    kind: ClassVar[str]
    dim: int
    made_for: str = ""

    def to_noise(self, z: Float[np.ndarray, "n D"]) -> Float[np.ndarray, "n D"]:
        """Return the noise of codes: N(0, I) if the prior fits them."""
        ...

    def from_noise(self, e: Float[np.ndarray, "n D"]) -> Float[np.ndarray, "n D"]:
        """Return the codes of noise, float32."""
        ...

    def save(self, folder: str | Path) -> None:
        """Write prior.json and prior.safetensors into a folder."""
        ...

    def sample(self, n: int, seed: int = 0, temperature: float = 1.0) -> Float[np.ndarray, "n D"]:
        """Draw codes, float32.

        Args:
            n: number of codes.
            seed: equal seeds draw equal codes.
            temperature: standard deviation of the noise.

        Raises:
            ConfigError: if a number is out of range.
        """
        WHOLE.check("n", n, int)
        SEEDS.check("seed", seed, int)
        Range(0).check("temperature", temperature)
        noise = np.random.default_rng(seed).normal(size=(n, self.dim))
        return self.from_noise((temperature * noise).astype(np.float32))

    def interpolate(
        self, a: Float[np.ndarray, "... D"], b: Float[np.ndarray, "... D"], steps: int
    ) -> Float[np.ndarray, "... steps D"]:
        """Return the codes from a to b, both included, whose noise is a slerp between theirs.

        Args:
            a: first ends, one code (D,) or several (n, D).
            b: last ends, as many as first ends.
            steps: codes per path.
        """
        return self.interpolate_at(a, b, np.linspace(0, 1, steps))

    def interpolate_at(
        self,
        a: Float[np.ndarray, "... D"],
        b: Float[np.ndarray, "... D"],
        fractions: Float[np.ndarray, " k"],
    ) -> Float[np.ndarray, "... k D"]:
        """Return the codes at fractions of the paths of `interpolate`: 0 is a, 1 is b."""
        first, last = rows_of(np.atleast_2d(a), self.dim), rows_of(np.atleast_2d(b), self.dim)
        paths = self._paths(first, last, fractions)
        return paths.reshape(*np.shape(a)[:-1], len(fractions), self.dim)

    def _paths(
        self,
        a: Float[np.ndarray, "n D"],
        b: Float[np.ndarray, "n D"],
        fractions: Float[np.ndarray, " k"],
    ) -> Float[np.ndarray, "m D"]:
        """Return the codes of all paths, one path after another: m = n * k."""
        return self.from_noise(slerps(self.to_noise(a), self.to_noise(b), fractions))


def slerps(
    a: Float[np.ndarray, "n D"], b: Float[np.ndarray, "n D"], fractions: Float[np.ndarray, " k"]
) -> Float[np.ndarray, "m D"]:
    """Return the slerp of each pair, one path after another: m = n * k."""
    return np.concatenate([slerp_at(x, y, fractions) for x, y in zip(a, b, strict=True)])


def paths_of_components(
    prior: Any,
    a: Float[np.ndarray, "n D"],
    b: Float[np.ndarray, "n D"],
    fractions: Float[np.ndarray, " k"],
) -> Float[np.ndarray, "m D"]:
    """Return paths of a mixture, through the components of both ends.

    The noise between the ends is mapped to codes by the first end's components and by the last
    end's, and these are mixed linearly. So the path contains both ends and has no jumps. If the
    components differ, the path crosses the gap between them, as every continuous path does.

    Args:
        prior: a prior with `component`, whose `from_noise` takes components.
        a: first ends.
        b: last ends.
        fractions: places on the paths: 0 is a, 1 is b.
    """
    noise = slerps(prior.to_noise(a), prior.to_noise(b), fractions)
    first, last = (
        prior.from_noise(noise, np.repeat(prior.component(ends), len(fractions), axis=0))
        for ends in (a, b)
    )
    share = np.tile(np.asarray(fractions, np.float32), len(a))[:, None]
    return (1 - share) * first + share * last


def rows_of(x: Any, dim: int) -> Float[np.ndarray, "n D"]:
    """Return codes or noise as float32 rows; (n, L, Z) is flattened.

    Args:
        x: codes or noise.
        dim: D.

    Raises:
        ConfigError: if a row does not have D numbers.
    """
    x = np.asarray(x, np.float32)
    if x.ndim < 2 or int(np.prod(x.shape[1:])) != dim:
        raise ConfigError(f"codes of shape {x.shape}: this prior is of (n, {dim})")
    return x.reshape(len(x), dim)


_KINDS = {
    "kind": str,
    "dim": int,
    "std": float,
    "width": int,
    "depth": int,
    "unroll": int,
    "steps": int,
    "self_condition": bool,
    "latents": int,
    "heads": int,
    "components": int,
    "made_for": str,
}


def codes_to_fit(codes: Any) -> Float[np.ndarray, "n D"]:
    """Return codes, flattened, as float64.

    Raises:
        ConfigError: if there are fewer than two, they are all equal, or a number is not finite.
    """
    codes = np.asarray(codes, np.float64)
    codes = codes.reshape(len(codes), -1)  # (n, D)
    if len(codes) < 2 or not np.isfinite(codes).all():
        raise ConfigError(f"{len(codes)} codes: a prior is fitted to two or more, all finite")
    if not codes.var(0).any():
        raise ConfigError("all codes are equal: no prior can be fitted to a collapsed code")
    return codes


def write(folder: str | Path, about: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Write the two files of a prior.

    Args:
        folder: created if it does not exist.
        about: the content of prior.json.
        arrays: the content of prior.safetensors.

    Raises:
        ConfigError: if the folder cannot be written.
    """
    folder = as_path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        content = save({k: np.ascontiguousarray(v) for k, v in arrays.items()})
        (folder / ARRAYS).write_bytes(content)
        (folder / JSON).write_text(json.dumps(about, indent=2) + "\n")
    except OSError as e:
        raise ConfigError(f"cannot write a prior into {folder}: {e.strerror}") from None


def read(folder: str | Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the content of a prior's two files.

    Raises:
        ConfigError: if a file is missing or damaged.
    """
    folder = as_path(folder)
    for name in () if is_remote(folder) else (JSON, ARRAYS):
        require_content(folder / name)
    try:
        about = parse_object((folder / JSON).read_text(encoding="utf-8"), str(folder / JSON))
        check_fields(about, _KINDS, f"{folder / JSON}: ")
        return about, load((folder / ARRAYS).read_bytes())
    except OSError:
        raise ConfigError(f"{folder} contains no prior: it needs {JSON} and {ARRAYS}") from None
    except ConfigError:
        raise
    except (ValueError, SafetensorError) as e:
        raise ConfigError(f"the prior in {folder} cannot be read: {e}") from None
