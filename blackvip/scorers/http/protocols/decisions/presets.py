"""Services of the System One form, one row each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["SYSTEM_ONE_PRESETS", "SystemOnePreset"]

_IMAGE_FORMS = ("images", "files", "state", "assets")
_SECRET_HEADERS = ("authorization", "proxy-authorization", "api-key", "x-api-key", "cookie")


@dataclass(frozen=True)
class SystemOnePreset:
    """A service of the System One form: where it takes images, its path, headers and limits.

    Parameters
    ----------
    images : {"images", "files", "state", "assets"}, default="images"
        Where the image is: a data url in a list of that name beside the state; a part of the state, as in chat
        messages; or a named asset.
    path : str, default="v1/systemone"
        Path of requests below the scorer's url. ``{model}`` stands for the model's name.
    headers : mapping, default={}
        Headers of each request. They are shown and stored, so keys do not belong here.
    key_header : str, default="Authorization"
        Header of the key, which follows the word "Bearer" in Authorization.
    result : str or None, default=None
        Field of the answer that holds the result. None: the answer is the result.
    max_options : int, default=255
        The most options of a question.
    model_max_options : mapping, default={}
        Lower limits of models, by a part of their names in small letters.
    max_questions : int, default=64
        The most questions of a request.
    final_codes, passing_codes : frozenset of str, default=frozenset()
        Codes in errors that last although their status is retried, and that pass although it is not.
    first_timeout : float or None, default=None
        Time limit in seconds until the service has answered for the first time. None: the scorer's `timeout`.

    Examples
    --------
    >>> from blackvip.scorers.http import SystemOne, SystemOnePreset
    >>> shop = SystemOnePreset(images="state", path="decide/{model}", max_options=100)
    >>> SystemOne("eye-2", shop).max_class_prompts
    100
    """

    images: str = "images"
    path: str = "v1/systemone"
    headers: Mapping[str, str] = field(default_factory=dict)
    key_header: str = "Authorization"
    result: str | None = None
    max_options: int = 255
    model_max_options: Mapping[str, int] = field(default_factory=dict)
    max_questions: int = 64
    final_codes: frozenset[str] = frozenset()
    passing_codes: frozenset[str] = frozenset()
    first_timeout: float | None = None

    def __post_init__(self) -> None:
        if self.images not in _IMAGE_FORMS:
            raise ValueError(f"images={self.images!r} was given; expected one of {', '.join(map(repr, _IMAGE_FORMS))}.")
        secret = [name for name in self.headers if name.lower() in _SECRET_HEADERS]
        if secret:
            raise ValueError(
                f"headers has {secret[0]!r}, which would be shown and stored; expected headers without secrets. Pass "
                "the name of an environment variable as the scorer's key, and set key_header."
            )


#: Presets by name. You may add your own, or pass it to `SystemOne`.
SYSTEM_ONE_PRESETS: dict[str, SystemOnePreset] = {
    "vllm": SystemOnePreset(max_options=26, first_timeout=300),
    "llama.cpp": SystemOnePreset(model_max_options={"openjev": 52}, first_timeout=300),
    "ollama": SystemOnePreset(first_timeout=300),
    "lmstudio": SystemOnePreset(first_timeout=300),
    "openrouter": SystemOnePreset("state", "alpha/decisions"),
    "perplexity": SystemOnePreset("state", "v1/decisions", max_questions=128),
    "cloudflare": SystemOnePreset(
        path="@cf/cloudflare/{model}",
        result="result",
        # The daily allowance is spent; there is no capacity at the moment.
        final_codes=frozenset({"3036"}),
        passing_codes=frozenset({"3040"}),
    ),
    "foundry": SystemOnePreset(path="providers/microsoft/v1/systemone", key_header="api-key"),
    "typesafe": SystemOnePreset("assets", headers={"TypeSafe-Danger-Zone-Images": "true"}),
}
