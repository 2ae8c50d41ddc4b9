"""Presets: the settings of the papers, as parameters of `BlackVIPClassifier`.

BlackVIPClassifier(score_fn, prompts, **presets.cvpr2023("eurosat"))

Each method is a pair of a prompter and an optimizer, without the additions of this package: no head, no guard, a
temperature of 1, and each direction scored on the whole batch. The settings are those of the published configuration of
BlackVIP (Oh et al., CVPR 2023, arXiv 2303.14773), which includes its rivals. Budgets are not part of a preset: set
`max_queries`, for instance to `paper_queries`.
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

CLIP_UNIT = 0.27  #: One unit of CLIP's normalised space as a share of the pixel range, averaged over channels.
BATCH_SIZE = 128  #: Images in a step; every candidate is scored on all of them.
N_DIRECTIONS = 5  #: Directions in a step.
SHOTS = 16  #: Training images per class.
SEEDS = (1, 2, 3)  #: The papers average over these seeds.
IMAGE_SIZE = (224, 224)  #: Size of the images before they are prompted, in pixels.

#: Names of timm models for the paper's encoders, and of the package's own encoders.
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
    """Settings of BlackVIP on one data set.

    Attributes
    ----------
    momentum : float
        Momentum of the gradient correction (beta in the paper).
    gamma : float
        Exponent of the decay of the perturbation size.
    c : float
        Initial perturbation size.
    p_eps : float
        Scale of the prompt, in units of CLIP's normalised space.
    epochs : int
        Passes over the training images.
    alpha : float
        Exponent of the decay of the step size.
    a : float
        Initial step size.
    augmented : bool
        Whether training images are randomly cropped and flipped.
    """

    momentum: float = 0.9
    gamma: float = 0.1
    c: float = 0.01
    p_eps: float = 1.0
    epochs: int = 5_000
    alpha: float = 0.4
    a: float = 0.01
    augmented: bool = True


#: BlackVIP's settings for each data set of `blackvip.datasets`.
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
    """Settings of BlackVIP's rivals on one data set; parameters are in CLIP's normalised space.

    Attributes
    ----------
    vp_momentum, vp_a, vp_c : float
        Gains of VP with SPSA-GC; alpha is the same as for BlackVIP.
    bar_a, bar_a_end : float
        First and last step size of BAR.
    white_box_rate : float
        Initial learning rate of VP with gradients.
    white_box_epochs : int
        Epochs of VP with gradients.
    """

    vp_momentum: float = 0.9
    vp_a: float = 10.0
    vp_c: float = 0.01
    bar_a: float = 10.0
    bar_a_end: float = 0.1
    white_box_rate: float = 40.0
    white_box_epochs: int = 1_000


#: Settings for each data set, from docs/configuration.md of BlackVIP's published code.
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
    """Return the settings of BlackVIP for a data set.

    Parameters
    ----------
    dataset : str or None, default=None
        A name in `SETTINGS`. None: the most common values, without augmentation, which may change the class.

    Returns
    -------
    setting : Setting
        The settings.

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
    setting(dataset)  # refuses an unknown name
    return RivalSetting() if dataset is None else RIVAL_SETTINGS[dataset]


def paper_queries(dataset: str | None, n_images: int) -> int:
    """Return the budget for as many steps of BlackVIP, or of VP with SPSA-GC, as in the paper.

    Parameters
    ----------
    dataset : str or None
        Name of a data set, as in `setting`.
    n_images : int
        Number of training images. An epoch has one step for each whole batch of 128, and at least one.

    Returns
    -------
    max_queries : int
        Billed images of all steps (1,280 per step with at least 128 images; 6.4 million on EuroSAT), and two per
        training image, which `fit` scores before and after training.
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
    """Return the settings of BlackVIP (CVPR 2023): Coordinator, SPSA-GC with fixed gains, no head, no guard.

    Parameters
    ----------
    dataset : str or None, default=None
        The data set whose hyperparameters to use, see `SETTINGS`. None: the most common ones (a = 0.01,
        c = 0.01, gamma = 0.1, momentum 0.9, p_eps = 1 in units of CLIP's normalised space).
    encoder : str or Encoder, default="pca"
        Encoder of the Coordinator: "vit-mae", the paper's best, "vit-in21k", "dino-resnet50" or "scratch", see
        `ENCODERS`; or any name or encoder that `Coordinator` takes. "pca", BlackVIP-SE's, downloads nothing.
    optimizer : {"spsa-gc", "spsa"}, default="spsa-gc"
        "spsa" has no gradient correction, for comparison.
    start : {"random", "zero"}, default="random"
        Initial weights of the decoder's last layer. "random" is the paper's, whose first prompt is noise. "zero" starts
        without a prompt; but prompts near zero, with perturbations as small as the paper's, change no 8-bit pixel, and
        training may never begin.

    Returns
    -------
    parameters : dict of str to object
        Parameters of `BlackVIPClassifier`. A step bills 1,280 images: two sides, five directions, batches of 128.

    Raises
    ------
    ValueError
        If there are no settings for the data set, or another argument is invalid.

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
    """Return the settings of BlackVIP-SE (arXiv 2407.17491), whose encoder is a PCA of the training images.

    Parameters
    ----------
    dataset : str or None, default=None
        The data set whose hyperparameters to use: those of `cvpr2023`, as no others are published.
    optimizer : {"spsa-gc", "spsa"}, default="spsa-gc"
        As in `cvpr2023`.
    start : {"random", "zero"}, default="random"
        As in `cvpr2023`.

    Returns
    -------
    parameters : dict of str to object
        Parameters of `BlackVIPClassifier`. A step bills 1,280 images.

    Raises
    ------
    ValueError
        As in `cvpr2023`.
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
    """Return the settings of visual prompting, VP (Bahng et al., arXiv 2203.17274), with SPSA-GC.

    Parameters
    ----------
    dataset : str or None, default=None
        The data set whose gains to use, see `RIVAL_SETTINGS`. None: a = 10, c = 0.01, momentum 0.9.
    optimizer : {"spsa-gc", "spsa"}, default="spsa-gc"
        With or without the gradient correction.
    a, c, momentum : float or None, default=None
        Gains that replace those of the data set; parameters are in units of CLIP's normalised space.
    start : {"random", "zero"}, default="random"
        Initial frame. "random": normal random numbers, as in the reference code.

    Returns
    -------
    parameters : dict of str to object
        Parameters of `BlackVIPClassifier`, with a frame of 30 px on 224-px images. A step bills 1,280 images.

    Raises
    ------
    ValueError
        If there are no settings for the data set, or another argument is invalid.
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
    """Return the settings of VP with gradients, as in BlackVIP's paper.

    Parameters
    ----------
    dataset : str or None, default=None
        The data set whose learning rate and epochs to use, see `RIVAL_SETTINGS`. None: 40 and 1,000.

    Returns
    -------
    parameters : dict of str to object
        Parameters of `WhiteBoxClassifier`.

    Raises
    ------
    ValueError
        If there are no settings for the data set.
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
    """Return the settings of black-box adversarial reprogramming, BAR (Tsai et al., ICML 2020, arXiv 2007.08714).

    Parameters
    ----------
    dataset : str or None, default=None
        The data set whose step sizes to use, see `RIVAL_SETTINGS`. None: from 10 to 0.1.
    optimizer : {"rgf", "spsa-gc", "spsa"}, default="rgf"
        "rgf": BAR's one-sided estimate from five directions of length 1, with a step size that decays
        polynomially with power 0.9. "spsa-gc", "spsa": the gains of `vp`, which is not in the paper.
    a, a_end : float or None, default=None
        Initial and, with "rgf", final step size. In the published code, it is constant in the last 10 % of the steps.
    c : float or "auto", default=0.01
        Smoothing: the distance of candidates from the parameters. The published value moves each pixel of a 224-px
        image by less than a hundredth of an 8-bit level, which is invisible to services that take 8-bit images. For
        these, use "auto" with "rgf", which moves pixels by one level (root mean square), with a `c` of about 6.
    inner : float, default=64
        Side of the inner copy of the image, in pixels of a 224-px image. The paper says 64; the published scripts for
        the transfer data sets and Loc use 194.
    start : {"random", "zero"}, default="random"
        Initial W. "random": normal random numbers, as in the reference code. "zero": a grey frame.

    Returns
    -------
    parameters : dict of str to object
        Parameters of `BlackVIPClassifier`. A step of "rgf" bills 768 images: six candidates, batches of 128.

    Raises
    ------
    ValueError
        If there are no settings for the data set, or another argument is invalid.
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
    """Return the parameters that all methods of the paper share."""
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
    """Return parameters of SPSA or SPSA-GC with fixed gains."""
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
