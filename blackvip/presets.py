"""Settings of papers, as parameters of `BlackVIPClassifier`.

BlackVIPClassifier(score_fn, prompts, **presets.cvpr2023("eurosat"))

Each method is a pair of a prompter and an optimizer, without what this package adds: no head, no guard, a temperature
of 1, and each direction scored on the whole batch. The sources are BlackVIP (Oh et al., CVPR 2023, arXiv 2303.14773)
with its published configuration, and for the rivals what that paper used them with. Budgets are not among the
parameters: give `max_queries`, for instance `paper_queries`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .encoders import Encoder
from .frames import PaddingFrame, ReprogrammingFrame
from .optimizers import RGF
from .prompters import Coordinator

__all__ = [
    "BATCH_SIZE",
    "CLIP_UNIT",
    "ENCODERS",
    "IMAGE_SIZE",
    "N_DIRECTIONS",
    "SEEDS",
    "SETTINGS",
    "SHOTS",
    "Setting",
    "bar",
    "blackvip_se",
    "cvpr2023",
    "paper_queries",
    "setting",
    "vp",
]

CLIP_UNIT = 0.27  #: Of the pixel range: one unit of CLIP's normalised space, the mean of its three channels.
BATCH_SIZE = 128  #: Images of a step, each of which every candidate is scored on.
N_DIRECTIONS = 5  #: Draws of a step.
SHOTS = 16  #: Training images of a class.
SEEDS = (1, 2, 3)  #: Over which the papers' figures are means.
IMAGE_SIZE = (224, 224)  #: That images have before they are prompted, in pixels.

#: The paper's encoders by the names of timm's models, the package's own by theirs.
ENCODERS = {
    "vit-mae": "vit_base_patch16_224.mae",
    "vit-in21k": "vit_base_patch16_224.orig_in21k",
    "dino-resnet50": "resnet50.dino",
    "scratch": "scratch",
    "pca": "pca",
}

_STARTS = ("zero", "random")


@dataclass(frozen=True)
class Setting:
    """What BlackVIP was trained with on one data set.

    Attributes
    ----------
    momentum : float
        The gradient correction's beta.
    gamma : float
        Exponent with which the perturbation decays.
    c : float
        Its size at first.
    p_eps : float
        The factor of the prompt, in units of CLIP's normalised space.
    epochs : int
        Passes over the training images.
    alpha : float
        Exponent with which the step size decays.
    a : float
        The step size at first.
    augmented : bool
        Whether training images are cropped and mirrored at random.
    """

    momentum: float = 0.9
    gamma: float = 0.1
    c: float = 0.01
    p_eps: float = 1.0
    epochs: int = 5_000
    alpha: float = 0.4
    a: float = 0.01
    augmented: bool = True


#: By data set, under the names of `blackvip.datasets`.
SETTINGS = {
    "caltech101": Setting(0.9, 0.2, 0.005, 0.2),
    "oxford_pets": Setting(0.9, 0.1, 0.01, 1.0),
    "stanford_cars": Setting(0.9, 0.2, 0.01, 0.3, epochs=2_500),
    "oxford_flowers": Setting(0.5, 0.2, 0.02, 1.0),
    "food101": Setting(0.9, 0.1, 0.01, 0.3),
    "fgvc_aircraft": Setting(0.3, 0.1, 0.01, 0.5),
    "sun397": Setting(0.5, 0.1, 0.01, 1.0, epochs=1_000),
    "dtd": Setting(0.7, 0.2, 0.01, 0.3),
    "svhn": Setting(0.9, 0.2, 0.005, 1.0),
    "eurosat": Setting(0.9, 0.2, 0.005, 0.4),
    "resisc45": Setting(0.95, 0.1, 0.01, 0.3),
    "clevr": Setting(0.9, 0.2, 0.005, 1.0),
    "ucf101": Setting(0.9, 0.1, 0.01, 0.3),
    "imagenet": Setting(0.9, 0.2, 0.005, 0.3, epochs=500),
    "biased_0.8": Setting(0.9, 0.1, 0.01, 1.0, augmented=False),
    "biased_0.9": Setting(0.9, 0.1, 0.01, 1.0, augmented=False),
    "loc_1:1": Setting(0.9, 0.1, 0.005, 1.0, alpha=0.5, augmented=False),
    "loc_1:4": Setting(0.95, 0.1, 0.01, 1.0, alpha=0.5, a=0.02, augmented=False),
}


def setting(dataset: str | None = None) -> Setting:
    """What BlackVIP was trained with on a data set.

    Parameters
    ----------
    dataset : str or None, default=None
        A name of `SETTINGS`. None: the values that most data sets share, without augmentation, since mirrored images
        may be of another class.

    Returns
    -------
    setting : Setting

    Raises
    ------
    ValueError
        If there is no such data set.
    """
    if dataset is None:
        return Setting(augmented=False)
    if dataset not in SETTINGS:
        raise ValueError(f"dataset={dataset!r} has no settings; expected one of {', '.join(SETTINGS)}, or None.")
    return SETTINGS[dataset]


def paper_queries(dataset: str | None, n_images: int) -> int:
    """A `max_queries` that pays for as many steps of BlackVIP, or of VP with SPSA-GC, as the paper made.

    Parameters
    ----------
    dataset : str or None
        As of `setting`.
    n_images : int
        Training images. An epoch has as many steps as it has whole batches of 128, and one at least.

    Returns
    -------
    max_queries : int
        Images of all steps, 1,280 each where there are 128 images (6.4 million on EuroSAT), and two for each training
        image, which `fit` scores before and after.
    """
    batch_size = min(BATCH_SIZE, n_images)
    n_steps = setting(dataset).epochs * (n_images // batch_size)
    return n_steps * 2 * N_DIRECTIONS * batch_size + 2 * n_images


def cvpr2023(
    dataset: str | None = None,
    *,
    encoder: str | Encoder = "pca",
    optimizer: str = "spsa-gc",
    start: str = "random",
) -> dict[str, Any]:
    """BlackVIP as published (CVPR 2023): Coordinator, SPSA-GC with set gains, no head, no guard.

    Parameters
    ----------
    dataset : str or None, default=None
        Whose hyperparameters to take, see `SETTINGS`. None: those that most of the paper's data sets share (a = 0.01,
        c = 0.01, gamma = 0.1, momentum 0.9, p_eps = 1 in units of CLIP's normalised space).
    encoder : str or Encoder, default="pca"
        Of the Coordinator: "vit-mae", the paper's best, "vit-in21k", "dino-resnet50" or "scratch", see `ENCODERS`; or
        any name or encoder that `Coordinator` takes. "pca" downloads nothing, and is BlackVIP-SE's.
    optimizer : {"spsa-gc", "spsa"}, default="spsa-gc"
        "spsa" is without the gradient correction, for comparison.
    start : {"random", "zero"}, default="random"
        Of the decoder's last layer. "random" is the paper's, whose first prompt is noise. "zero" would start from the
        service as it is, but with perturbations as small as the paper's, prompts near zero change no 8-bit pixel, so
        that training may never begin.

    Returns
    -------
    parameters : dict of str to object
        A step bills 1,280 images: two sides of five directions on batches of 128.

    Raises
    ------
    ValueError
        If there are no settings of the data set, or another value is none of those above.

    Examples
    --------
    >>> from blackvip import presets
    >>> parameters = presets.cvpr2023("eurosat", encoder="vit-mae")
    >>> parameters["c"], parameters["gamma"], round(parameters["prompt_scale"], 3)
    (0.005, 0.2, 0.108)
    >>> parameters["prompter"]
    Coordinator(encoder='vit_base_patch16_224.mae', last_layer='random')
    """
    used = setting(dataset)
    name = ENCODERS.get(encoder, encoder) if isinstance(encoder, str) else encoder
    return {
        **_published(used),
        "prompter": Coordinator(name, last_layer=_checked_start(start)),
        "prompt_scale": CLIP_UNIT * used.p_eps,
        **_gains(optimizer, used.a, used.c, used.alpha, used.gamma, used.momentum),
    }


def blackvip_se(dataset: str | None = None, *, optimizer: str = "spsa-gc", start: str = "random") -> dict[str, Any]:
    """BlackVIP-SE (arXiv 2407.17491): BlackVIP whose encoder is a PCA of the training images, without a network.

    Parameters
    ----------
    dataset : str or None, default=None
        Whose hyperparameters to take: those of `cvpr2023`, since no others are published.
    optimizer : {"spsa-gc", "spsa"}, default="spsa-gc"
        As of `cvpr2023`.
    start : {"random", "zero"}, default="random"
        As of `cvpr2023`.

    Returns
    -------
    parameters : dict of str to object
        A step bills 1,280 images.

    Raises
    ------
    ValueError
        As of `cvpr2023`.
    """
    return cvpr2023(dataset, encoder="pca", optimizer=optimizer, start=start)


def vp(
    dataset: str | None = None,
    *,
    optimizer: str = "spsa-gc",
    a: float = 10.0,
    c: float = 0.01,
    momentum: float = 0.9,
    start: str = "random",
) -> dict[str, Any]:
    """Visual prompting, VP (Bahng et al., arXiv 2203.17274), with SPSA-GC, as BlackVIP's paper compares itself to.

    Parameters
    ----------
    dataset : str or None, default=None
        Decides about alpha, which is BlackVIP's, and the augmentation. The paper chose the gains of VP for each data
        set from a = 10 to 20, c = 0.005 to 0.01, alpha = 0.4 or 0.5 and beta = 0.3 to 0.9, and does not say which.
    optimizer : {"spsa-gc", "spsa"}, default="spsa-gc"
        With or without the gradient correction.
    a, c, momentum : float, default=10, 0.01, 0.9
        The gains, of that range; parameters are in units of CLIP's normalised space.
    start : {"random", "zero"}, default="random"
        Of the frame. "random": normal random numbers, as the reference has them.

    Returns
    -------
    parameters : dict of str to object
        A frame of 30 px around 224-px images, and as large a share of others. A step bills 1,280 images.

    Raises
    ------
    ValueError
        If there are no settings of the data set, or another value is none of those above.
    """
    used = setting(dataset)
    return {
        **_published(used),
        "prompter": PaddingFrame(start=_checked_start(start)),
        "prompt_scale": CLIP_UNIT,
        **_gains(optimizer, a, c, used.alpha, 0.1, momentum),
    }


def bar(
    dataset: str | None = None,
    *,
    optimizer: str = "rgf",
    a: float = 10.0,
    a_end: float = 0.1,
    c: float | str = 0.01,
    inner: float = 64,
    start: str = "random",
) -> dict[str, Any]:
    """Black-box adversarial reprogramming, BAR (Tsai et al., ICML 2020, arXiv 2007.08714), as in BlackVIP's paper.

    Parameters
    ----------
    dataset : str or None, default=None
        Decides about the augmentation alone. The paper chose a from 5 to 10 and `a_end` from 0.01 to 0.1 for each data
        set, and does not say which.
    optimizer : {"rgf", "spsa-gc", "spsa"}, default="rgf"
        BAR's one-sided estimate from five directions of length 1, with a step size that falls like a
        polynomial of power 0.9; or SPSA with the gains of `vp`, which is not in the paper.
    a, a_end : float, default=10, 0.1
        The step size at the start, and with "rgf" at the end.
    c : float or "auto", default=0.01
        The smoothing: how far candidates are from the parameters. The published one moves each pixel of a 224-px image
        by less than a hundredth of an 8-bit level, so that services which do not take tensors see little of it. "auto",
        for them and with "rgf": by one level (root mean square), with a `c` of some 6.
    inner : float, default=64
        Side of the copy of the image, in pixels of a 224-px image. The paper has 64; its published scripts for the
        transfer data sets and Loc have 194.
    start : {"random", "zero"}, default="random"
        Of W. "random": normal random numbers, as the reference has them. "zero": the frame is grey at first.

    Returns
    -------
    parameters : dict of str to object
        A step of "rgf" bills 768 images: the parameters and five directions on batches of 128.

    Raises
    ------
    ValueError
        If there are no settings of the data set, or another value is none of those above.
    """
    used = setting(dataset)
    parameters = {
        **_published(used),
        "prompter": ReprogrammingFrame(inner, start=_checked_start(start)),
        "prompt_scale": 1.0,
        "loss": "focal",
    }
    if optimizer != "rgf":
        return {**parameters, **_gains(optimizer, a, c, used.alpha, 0.1, 0.9, also=("rgf",))}
    rgf = RGF(a, c, a_end=a_end, n_steps="auto", power=0.9, n_directions=N_DIRECTIONS)
    return {**parameters, "optimizer": rgf}


def _published(used: Setting) -> dict[str, Any]:
    """What all methods of the paper have in common."""
    return {
        "batch_size": BATCH_SIZE,
        "share_batch": True,
        "temperature": 1.0,
        "loss": "cross-entropy",
        "augment": "crop-flip" if used.augmented else None,
        "head": None,
        "guard": False,
    }


def _gains(
    optimizer: str, a: float, c: float | str, alpha: float, gamma: float, momentum: float, also: tuple[str, ...] = ()
) -> dict[str, Any]:
    """SPSA, or SPSA-GC, with set gains."""
    names = (*also, "spsa-gc", "spsa")
    if optimizer not in names:
        raise ValueError(f"optimizer={optimizer!r}; expected {', '.join(map(repr, names[:-1]))} or {names[-1]!r}.")
    return {
        "optimizer": optimizer,
        "a": a,
        "c": c,
        "alpha": alpha,
        "gamma": gamma,
        "stability": 1.0,
        "momentum": momentum,
        "n_directions": N_DIRECTIONS,
        "clip": None,
    }


def _checked_start(start: str) -> str:
    if start not in _STARTS:
        raise ValueError(f"start={start!r}; expected 'zero' or 'random'.")
    return start
