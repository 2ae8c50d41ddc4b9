"""scikit-learn's common checks, with a service that reads numbers off a row of pixels."""

import numpy as np
import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from blackvip import BlackVIPClassifier

#: Checks that fail, each with its reason.
EXPECTED_FAILURES = {}


def row_reader(images, class_prompts):
    """Scores that are different sums of an image's columns: enough to tell classes apart with a head."""
    columns = images.mean(axis=(1, 3)) / 255
    weights = np.cos(np.outer(np.arange(columns.shape[1]) + 1, np.arange(len(class_prompts)) + 1))
    return 10 * columns @ weights


@pytest.mark.filterwarnings("ignore::blackvip.PromptNotUsedWarning")
@parametrize_with_checks(
    [BlackVIPClassifier(row_reader, "{}", max_queries=2_000, n_directions=2, random_state=0)],
    expected_failed_checks=lambda estimator: EXPECTED_FAILURES,
)
def test_scikit_learn(estimator, check):
    check(estimator)
