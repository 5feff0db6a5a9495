"""`PriorTask`: codes, whitening, samples for the log and the report of all learned priors."""

from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from flaxae.config import Config
from flaxae.data.loader import ArraySource, with_order
from flaxae.data.text import digest
from flaxae.errors import ConfigError
from flaxae.models.t5_vae.prior.codes import Codes
from flaxae.task import Context, Task
from flaxae.text_autoencoder.priors import GaussianPrior, Prior

BASE = "gaussian"  # the folder of a workdir with the Gaussian that whitens codes


class PriorTask(Task):
    """A task that trains a prior of the codes of a trained text autoencoder.

    A subclass defines `init`, `loss`, `flops`, `prior` and `fit_base`. Its config has the fields
    codes_from and num_lines.

    Attributes:
        name: the prior's name in messages and reports.
    """

    name: ClassVar[str]

    def __init__(self, config: Config):
        self.config = config
        self.options: Any = config.task
        self._kept_base: GaussianPrior | None = None  # from an earlier start of the same run

    def prior(self, model: Any) -> Prior:
        """Return a trained model of this task as a prior."""
        raise NotImplementedError

    def fit_base(self, codes: Any) -> GaussianPrior:
        """Return the Gaussian that whitens codes."""
        raise NotImplementedError

    @cached_property
    def codes(self) -> Codes:
        """The codes that the prior learns."""
        options, data = self.options, self.config.data
        return Codes(options.codes_from, options.num_lines, data.seed, data.cache)

    @property
    def base(self) -> GaussianPrior:
        """The Gaussian of the training codes, which whitens them."""
        if self._kept_base is None:
            self._kept_base = self.fit_base(self.codes.codes("train"))
            self._kept_base.made_for = self.codes.made_by
        return self._kept_base

    @property
    def dim(self) -> int:
        """Numbers per code."""
        return self.codes.dim if self._kept_base is None else self._kept_base.dim

    def data(self, split: str) -> ArraySource:
        """Return the batches of a split: whitened codes."""
        data = self.config.data
        rows = self.base.to_noise(self.codes.codes(split))
        source = ArraySource({"codes": rows}, data.batch_size, data.seed, split == "train")
        # A hash of what codes are computed from, as their last bits differ between machines.
        found = digest([self.codes.fingerprint(split), split, str(data.batch_size), str(data.seed)])
        source.fingerprint = with_order(found, split == "train")
        return source

    def sample(self, model: Any, ctx: Context, n: int) -> dict[str, list[str]]:
        """Return texts for the log: samples and an interpolation."""
        prior, codec = self.prior(model), self.codes.codec
        out = {f"samples of the {self.name}": codec.decode(prior.sample(n))}
        dev = self.codes.codes("dev")
        if len(dev) > 1:
            path = prior.interpolate(dev[0], dev[1], 5)
            out["interpolation through noise"] = codec.decode(path)
        return out

    def report(self, loaded: Any, outdir: str) -> dict[str, Any]:
        """Compare the prior with others (see `prior.report`)."""
        from flaxae.models.t5_vae.prior import report

        loaded.check_data()
        return report.report(loaded, outdir)

    def save_assets(self, workdir: str) -> None:
        """Store the Gaussian in the workdir."""
        self.base.save(Path(workdir) / BASE)

    def load_assets(self, workdir: str) -> None:
        """Read the Gaussian from the workdir.

        Raises:
            ConfigError: if the codes of the T5-VAE now have another size.
        """
        base = GaussianPrior.load(Path(workdir) / BASE)
        try:
            dim = self.codes.dim
        except ConfigError:
            dim = base.dim  # the T5-VAE is missing, but the prior alone can be opened
        if dim != base.dim:
            raise ConfigError(
                f"{workdir} is a {self.name} of {base.dim} dimensions, but the codes of "
                f"task.codes_from={self.options.codes_from!r} now have {dim}: restore that run, "
                "or train one of the new codes in a new workdir"
            )
        self._kept_base = base
