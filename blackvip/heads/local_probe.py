"""The local probe: a stack of probes on local features alone."""

from __future__ import annotations

from sklearn.base import clone

from .base import Head
from .fused import FusedHead
from .probes import PROBE_C, PROBE_FOLDS

__all__ = ["LocalProbe"]


class LocalProbe(FusedHead):
    """Stack of probes on local features alone; it needs no service.

    Parameters
    ----------
    block_sizes : tuple of int or None, default=None
        Number of columns of each block of features. None: all columns are one block.
    C : float, default=30.0
        Inverse regularisation strength of the blocks' probes. The features of a block should have a norm of about 1.
    n_folds : int, default=5
        Maximum number of folds; at most the number of images in the smallest class.

    Attributes
    ----------
    block_sizes_, classes_, intercept_, n_features_in_, probes_
        As in `FusedHead`, whose further attributes are empty or have no effect.

    See Also
    --------
    FusedHead : Stack of the service's log scores and of such probes.
    """

    n_scores = 0
    strengths = (1.0,)
    scores_of_classes = False
    prompt_classes = None
    across_classes = False

    def __init__(self, block_sizes: tuple[int, ...] | None = None, C: float = PROBE_C, n_folds: int = PROBE_FOLDS):
        self.block_sizes = block_sizes
        self.C = C
        self.n_folds = n_folds

    def with_layout(self, n_scores: int, block_sizes: tuple[int, ...], vector_size: int = 0) -> Head:
        """Make an unfitted copy for blocks of features of these sizes."""
        return clone(self).set_params(block_sizes=block_sizes)

    def with_deviations(self, prompt_classes: tuple[int, ...]) -> list[Head]:
        """Return an empty list: scores are not used."""
        return []
