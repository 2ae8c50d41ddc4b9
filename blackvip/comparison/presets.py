"""Settings of papers, as parameters of `BlackVIPClassifier`.

BlackVIPClassifier(score_fn, prompts, **presets.cvpr2023("eurosat"))

Each method is a pair of a prompter and an optimizer, without what this package adds: no head, no guard, a temperature
of 1, and each direction scored on the whole batch. The sources are BlackVIP (Oh et al., CVPR 2023, arXiv 2303.14773)
with its published configuration, and for the rivals what its authors used them with. Budgets are not among the
parameters: give `max_queries`, for instance `paper_queries`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..encoders.base import Encoder
from ..optimizers import RGF, SPSA, SPSAGC
from ..prompters.coordinator import Coordinator
from ..prompters.frames import PaddingFrame, ReprogrammingFrame

__all__ = [
    "BATCH_SIZE",
    "CLIP_UNIT",
    "ENCODERS",
    "IMAGE_SIZE",
    "N_DIRECTIONS",
    "RIVAL_SETTINGS",
    "RivalSetting",
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
    "vp_white_box",
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


@dataclass(frozen=True)
class RivalSetting:
    """What BlackVIP's authors trained its rivals with on one data set; parameters are in CLIP's normalised space.

    Attributes
    ----------
    vp_momentum, vp_a, vp_c : float
        Gains of VP with SPSA-GC; its alpha is BlackVIP's.
    bar_a, bar_a_end : float
        First and last step size of BAR.
    white_box_rate : float
        First learning rate of VP with gradients.
    white_box_epochs : int
        Its passes over the training images.
    """

    vp_momentum: float = 0.9
    vp_a: float = 10.0
    vp_c: float = 0.01
    bar_a: float = 10.0
    bar_a_end: float = 0.1
    white_box_rate: float = 40.0
    white_box_epochs: int = 1_000


#: By data set: docs/configuration.md of BlackVIP's published code.
RIVAL_SETTINGS = {
    "caltech101": RivalSetting(0.3, 20.0, 0.01, 10.0, 0.1),
    "oxford_pets": RivalSetting(0.3, 10.0, 0.005, 10.0, 0.1),
    "stanford_cars": RivalSetting(0.5, 10.0, 0.01, 10.0, 0.1, white_box_rate=5.0),
    "oxford_flowers": RivalSetting(0.3, 10.0, 0.005, 5.0, 0.1),
    "food101": RivalSetting(0.3, 10.0, 0.01, 5.0, 0.1),
    "fgvc_aircraft": RivalSetting(0.3, 10.0, 0.01, 10.0, 0.1),
    "sun397": RivalSetting(0.3, 20.0, 0.01, 5.0, 0.01, white_box_epochs=500),
    "dtd": RivalSetting(0.9, 10.0, 0.01, 5.0, 0.1),
    "svhn": RivalSetting(0.9, 10.0, 0.01, 5.0, 0.1),
    "eurosat": RivalSetting(0.3, 10.0, 0.005, 5.0, 0.01),
    "resisc45": RivalSetting(0.3, 10.0, 0.01, 5.0, 0.01),
    "clevr": RivalSetting(0.9, 20.0, 0.01, 10.0, 0.1),
    "ucf101": RivalSetting(0.3, 20.0, 0.01, 5.0, 0.01),
    "imagenet": RivalSetting(0.3, 20.0, 0.01, 10.0, 0.1, white_box_rate=1.0, white_box_epochs=400),
    "biased_0.8": RivalSetting(0.9, 10.0, 0.005, 5.0, 0.1),
    "biased_0.9": RivalSetting(0.9, 10.0, 0.005, 5.0, 0.1),
    "loc_1:1": RivalSetting(0.9, 10.0, 0.01, 5.0, 0.5, white_box_rate=10.0),
    "loc_1:4": RivalSetting(0.9, 10.0, 0.01, 5.0, 0.01, white_box_rate=10.0),
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


def _of_rivals(dataset: str | None) -> RivalSetting:
    setting(dataset)  # refuses what there is not
    return RivalSetting() if dataset is None else RIVAL_SETTINGS[dataset]


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
    >>> parameters["c"], parameters["optimizer"].gamma, round(parameters["prompt_scale"], 3)
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
    a: float | None = None,
    c: float | None = None,
    momentum: float | None = None,
    start: str = "random",
) -> dict[str, Any]:
    """Visual prompting, VP (Bahng et al., arXiv 2203.17274), with SPSA-GC, as BlackVIP's paper compares itself to.

    Parameters
    ----------
    dataset : str or None, default=None
        Whose gains to take, see `RIVAL_SETTINGS`; alpha is BlackVIP's. None: a = 10, c = 0.01, momentum 0.9.
    optimizer : {"spsa-gc", "spsa"}, default="spsa-gc"
        With or without the gradient correction.
    a, c, momentum : float or None, default=None
        Other gains; parameters are in units of CLIP's normalised space.
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
    used, own = setting(dataset), _of_rivals(dataset)
    a, c = own.vp_a if a is None else a, own.vp_c if c is None else c
    return {
        **_published(used),
        "prompter": PaddingFrame(start=_checked_start(start)),
        "prompt_scale": CLIP_UNIT,
        **_gains(optimizer, a, c, used.alpha, 0.1, own.vp_momentum if momentum is None else momentum),
    }


def vp_white_box(dataset: str | None = None) -> dict[str, Any]:
    """VP with gradients, as BlackVIP's paper compares itself to: parameters of `WhiteBoxClassifier`.

    Parameters
    ----------
    dataset : str or None, default=None
        Whose learning rate and epochs to take, see `RIVAL_SETTINGS`. None: 40 and 1,000.

    Returns
    -------
    parameters : dict of str to object

    Raises
    ------
    ValueError
        If there are no settings of the data set.
    """
    own = _of_rivals(dataset)
    return {"learning_rate": own.white_box_rate, "n_epochs": own.white_box_epochs}


def bar(
    dataset: str | None = None,
    *,
    optimizer: str = "rgf",
    a: float | None = None,
    a_end: float | None = None,
    c: float | str = 0.01,
    inner: float = 64,
    start: str = "random",
) -> dict[str, Any]:
    """Black-box adversarial reprogramming, BAR (Tsai et al., ICML 2020, arXiv 2007.08714), as in BlackVIP's paper.

    Parameters
    ----------
    dataset : str or None, default=None
        Whose step sizes to take, see `RIVAL_SETTINGS`. None: from 10 to 0.1.
    optimizer : {"rgf", "spsa-gc", "spsa"}, default="rgf"
        BAR's one-sided estimate from five directions of length 1, with a step size that falls like a
        polynomial of power 0.9; or SPSA with the gains of `vp`, which is not in the paper.
    a, a_end : float or None, default=None
        Another step size at the start, and with "rgf" at the end. It falls to the end of the budget; in the published
        code over nine tenths of the steps, and then stays.
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
    used, own = setting(dataset), _of_rivals(dataset)
    a, a_end = own.bar_a if a is None else a, own.bar_a_end if a_end is None else a_end
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
    settings: dict[str, Any] = {"alpha": alpha, "gamma": gamma, "stability": 1.0, "n_directions": N_DIRECTIONS}
    settings.update(clip=None, share_batch=True)
    made = SPSAGC(momentum=momentum, **settings) if optimizer == "spsa-gc" else SPSA(**settings)
    return {"optimizer": made, "a": a, "c": c}


def _checked_start(start: str) -> str:
    if start not in _STARTS:
        raise ValueError(f"start={start!r}; expected 'zero' or 'random'.")
    return start
