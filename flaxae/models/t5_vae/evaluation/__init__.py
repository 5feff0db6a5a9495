"""The evaluation of a trained T5-VAE.

Free-running reconstruction is the main result; the other parts explain it.

- `reconstruction`: exact match, token accuracy and text similarity, also by length.
- `likelihood`: teacher-forced losses, posterior collapse, importance-weighted bounds.
- `text_autoencoder.evaluation`: the distribution of codes, samples, paths between codes.
- `probes` and `disentanglement`: what can be read off codes, with the labels of `factors`.
- `studies` runs each part, `report` writes report.json, and `readable` prints it as text.
"""

from flaxae.models.t5_vae.evaluation.readable import describe
from flaxae.models.t5_vae.evaluation.report import evaluate, report
from flaxae.models.t5_vae.evaluation.studies import Sizes

__all__ = ["Sizes", "describe", "evaluate", "report"]
