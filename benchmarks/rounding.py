"""Services that round: accuracy with exact answers, with two decimals, and with several orders of the options.

    python benchmarks/rounding.py [--tasks small-fog ...] [--prompters auto basis] [--queries 4000] [--seeds 0 1 2]
        [--split test|development] [--services exact 2x1 2x4 ...] [--sharpness 1]

The service is a task of `services.py`, which answers like a decision endpoint: it likes options that come earlier
better, and it rounds probabilities. "2x4" has two decimals, and answers are the mean of four orders of the options;
"exact" does not round, and asks in one order. Prints a line per fit, and paired differences at the end.
"""

from __future__ import annotations

import argparse
import warnings

import numpy as np
import services
import torch

from blackvip import BlackVIPClassifier
from blackvip.exceptions import ClassPromptWarning, PromptNotUsedWarning

LIKING = 0.05  # nats by which an option is liked better than the next


class Decisions:
    """A score function: the mean of the rounded probabilities of several orders of the options.

    Parameters
    ----------
    score_fn : callable
        Returns logits or log probabilities.
    decimals : int or None
        Decimals of the answers; None: all.
    n_orders : int
    sharpness : float
        Factor of the logits: a sharper service is nearly certain of most images.
    """

    score_type = "probabilities"

    def __init__(self, score_fn, decimals=None, n_orders=1, sharpness=1.0):
        self.score_fn = score_fn
        self.decimals = decimals
        self.n_orders = n_orders
        self.sharpness = sharpness

    def __call__(self, images, class_prompts):
        logits = np.asarray(self.score_fn(images, class_prompts), dtype=float)
        random = np.random.default_rng(0)
        places = [np.arange(logits.shape[1])]
        places += [random.permutation(logits.shape[1]) for _ in range(self.n_orders - 1)]
        answers = []
        for place in places:
            liked = self.sharpness * logits - LIKING * place
            p = np.exp(liked - liked.max(axis=1, keepdims=True))
            p /= p.sum(axis=1, keepdims=True)
            answers.append(p if self.decimals is None else p.round(self.decimals))
        return np.mean(answers, axis=0)


def service_of(name, score_fn, sharpness=1.0):
    """The service that a name such as "exact" or "2x4" means."""
    decimals, _, n_orders = name.partition("x")
    rounding = () if name == "exact" else (int(decimals), int(n_orders))
    return Decisions(score_fn, *rounding, sharpness=sharpness)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=[f"small-{damage}" for damage in services.DAMAGES])
    parser.add_argument("--services", nargs="+", default=["exact", "2x1", "2x4"])
    parser.add_argument("--prompters", nargs="+", default=["auto", "basis"])
    parser.add_argument("--sharpness", type=float, default=1.0, help="factor of the service's logits")
    parser.add_argument("--queries", type=int, default=4_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--split", choices=["test", "development"], default="test")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", PromptNotUsedWarning)
    warnings.simplefilter("ignore", ClassPromptWarning)
    for name in args.tasks:
        task = services.tasks()[name]()
        for prompter in args.prompters:
            found = {service: [] for service in args.services}
            for seed in args.seeds:
                X, y, X_test, y_test = task.load(seed, args.split)
                for service, accuracies in found.items():
                    clf = BlackVIPClassifier(
                        service_of(service, task.score_fn, args.sharpness),
                        task.class_prompts,
                        prompter=prompter,
                        max_queries=args.queries,
                        random_state=seed,
                        verbose=0,
                    ).fit(X, y)
                    accuracies.append(clf.score(X_test, y_test))
                    found_c = getattr(clf.optimizer_, "c_", None)
                    print(
                        f"{name:16} {prompter:6} {service:6} seed {seed}: {accuracies[-1]:.3f}, "
                        f"{clf.n_queries_} images, floor {clf.score_floor_:g}, c {found_c}, {type(clf.head_).__name__}",
                        flush=True,
                    )
            first, *others = args.services
            for service in others:
                differences = np.subtract(found[service], found[first])
                print(
                    f"{name:16} {prompter:6} {service} against {first}: {differences.mean():+.4f} "
                    f"({', '.join(f'{value:+.3f}' for value in differences)})",
                    flush=True,
                )


if __name__ == "__main__":
    main()
