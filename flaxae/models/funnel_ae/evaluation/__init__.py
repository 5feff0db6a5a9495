"""The evaluation of a trained Funnel AE, always without skips.

- `scores`: cross entropy and accuracy of each place of held-out texts.
- `gap`: the encoder's codes compared with codes optimised for each text.
- `models.funnel_ae.states`: differences of pairs, attention, and dimensions of hidden states.
- `text_autoencoder.evaluation`: reconstruction, codes, samples, paths and arithmetic of codes.
- `report` writes report.json and figures, and `readable` prints it as text.
"""

from flaxae.models.funnel_ae.evaluation.readable import describe
from flaxae.models.funnel_ae.evaluation.report import Sizes, evaluate, report

__all__ = ["Sizes", "describe", "evaluate", "report"]
