"""What a trained T5-VAE does: free-running reconstruction first, everything else beside it.

text_metrics     BLEU, chrF, edit distance, distinct-n, self-BLEU, validity
reconstruction   the headline, by length too
likelihood       teacher-forced losses, collapse, importance-weighted bounds
latent           MMD^2 with its null, spread, Gaussianity, information
samples          N(0, I), fitted priors, real lines under one n-gram model (language_model)
interpolation    ways between codes, beside two that need no model
probes           linear probes; disentanglement: z-diff, z-min-var, MIG, DCI (on factors)
studies, report  put together; readable: as text
"""

from flaxae.measures.text import is_valid, validity
from flaxae.models.t5_vae.evaluation.readable import describe
from flaxae.models.t5_vae.evaluation.report import evaluate, report, sample_texts
from flaxae.models.t5_vae.evaluation.studies import Sizes

__all__ = [
    "Sizes",
    "describe",
    "evaluate",
    "is_valid",
    "report",
    "sample_texts",
    "validity",
]
