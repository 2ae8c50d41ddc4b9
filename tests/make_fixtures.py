"""Writes the frozen files of this release, which later releases must load.

``.venv-lowest/bin/python tests/make_fixtures.py``: NumPy 2 reads the pickles of NumPy 1, but not the other way round.
"""

import pathlib
import warnings

import joblib
import numpy as np
from conftest import ToyService, make_stripes

from blackvip import BlackVIPClassifier, Coordinator, __version__

FOLDER = pathlib.Path(__file__).parent / "fixtures" / __version__


def main():
    if int(np.__version__.split(".")[0]) > 1:
        raise SystemExit(f"This is NumPy {np.__version__}; use .venv-lowest/bin/python.")
    FOLDER.mkdir(parents=True, exist_ok=True)
    X, y = make_stripes(n=24)
    labels = np.array(["left", "right"])[y]
    # From its random start, a Coordinator draws prompts that nobody can overlook.
    for name, prompter in {"coordinator": Coordinator(last_layer="random"), "basis": "basis"}.items():
        service = ToyService()
        clf = BlackVIPClassifier(
            service, prompter=prompter, max_queries=800, n_directions=2, guard=False, random_state=0
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            clf.fit(X, labels)
        expected = clf.predict_proba(X)
        sent = clf.coordinator_.transform(X)
        np.savez_compressed(FOLDER / f"{name}.npz", X=X, y=labels, proba=expected, sent=sent)
        clf.set_params(score_fn=None)  # the service is not part of a file
        clf.save(FOLDER / f"{name}.blackvip")
        joblib.dump(clf, FOLDER / f"{name}.joblib", compress=3)


if __name__ == "__main__":
    main()
