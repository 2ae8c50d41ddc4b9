"""Writes the frozen files of this release, which later releases must load.

``.venv-lowest/bin/python tests/make_fixtures.py``: NumPy 2 reads the pickles of NumPy 1, but not the other way round.
"""

import pathlib
import warnings

import joblib
import numpy as np
from conftest import ToyService, make_stripes

from blackvip import BlackVIPClassifier, __version__

FOLDER = pathlib.Path(__file__).parent / "fixtures" / __version__


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    X, y = make_stripes(n=24)
    labels = np.array(["left", "right"])[y]
    for prompter in ("coordinator", "basis"):
        service = ToyService()
        clf = BlackVIPClassifier(
            service, prompter=prompter, max_queries=800, n_directions=2, guard=False, random_state=0
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            clf.fit(X, labels)
        expected = clf.predict_proba(X)
        np.savez_compressed(FOLDER / f"{prompter}.npz", X=X, y=labels, proba=expected)
        clf.set_params(score_fn=None)  # the service is not part of a file
        clf.save(FOLDER / f"{prompter}.blackvip")
        joblib.dump(clf, FOLDER / f"{prompter}.joblib", compress=3)


if __name__ == "__main__":
    main()
