"""Chat models that return log-probabilities: OpenAI's chat completions, and the servers that speak like them."""

from __future__ import annotations

import copy
import string
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from ....exceptions import ClassPromptError, Refusal, ServiceError
from ..adapter import Adapter, Images, Request, Send
from ..encoding import data_url
from ..json_bodies import shortened
from ..keys import key_header
from ..label_mass import LabelMass
from ..usage import are_too_many
from .by_name import preset_of

__all__ = ["CHAT_PRESETS", "ChatLogprobs", "ChatPreset"]

LETTERS = string.ascii_uppercase + string.ascii_lowercase
PROMPT = "Which option fits the image best?\n{options}\nAnswer with the letter of one option only."
# Services write -9999.0 for a token that is too unlikely to be told.
_LEAST_LOGPROB = -9000.0
# The most token ids in a request to vLLM.
_MOST_TOKEN_IDS = 128
# Statuses of servers that do not return token ids.
_UNKNOWN_PATH = (403, 404, 405, 501)
# Any question will do to learn how an answer begins.
_QUESTION = {"role": "user", "content": "?"}
# What tokenizers put before a word in place of a blank.
_BLANKS = string.whitespace + "\u2581\u0120"


@dataclass(frozen=True)
class ChatPreset:
    """Ways of a service's own: its limits, the names of its fields, and where its key goes.

    Parameters
    ----------
    top_logprobs : int, default=20
        Number of most likely tokens that the service returns at most, and so of class prompts without token ids.
    max_tokens : str, default="max_tokens"
        Name of the field that limits the tokens of an answer.
    tokenize : str or None, default=None
        Path, below the scorer's url, at which the server returns the tokens of a text as vLLM does. It must then take
        ``logprob_token_ids`` too. None: there is no such path.
    key_header : str, default="Authorization"
        Header of the key, which follows the word "Bearer" in Authorization.
    fields : mapping, default={}
        Further fields of each request.
    first_timeout : float or None, default=None
        Time limit in seconds until the service has answered for the first time. None: the scorer's `timeout`.

    Examples
    --------
    >>> from blackvip.scorers.http import ChatLogprobs, ChatPreset
    >>> shop = ChatPreset(top_logprobs=50, fields={"temperature": 1.0})
    >>> ChatLogprobs("eye-2", shop).max_class_prompts
    50
    """

    top_logprobs: int = 20
    max_tokens: str = "max_tokens"
    tokenize: str | None = None
    key_header: str = "Authorization"
    fields: Mapping[str, Any] = field(default_factory=dict)
    first_timeout: float | None = None


# With these, log-probabilities are those of the model whether or not a service scales them first.
_UNSCALED = {"temperature": 1.0, "top_p": 1.0}

#: Presets by name. More may be added, or passed to `ChatLogprobs`.
CHAT_PRESETS: dict[str, ChatPreset] = {
    # Some of its models refuse a temperature, and 1 is the default of the others.
    "openai": ChatPreset(max_tokens="max_completion_tokens"),
    "azure": ChatPreset(max_tokens="max_completion_tokens", key_header="api-key"),
    "vllm": ChatPreset(tokenize="../tokenize", fields=_UNSCALED, first_timeout=300),
    # Its cache of prompts makes answers depend on earlier requests.
    "llama.cpp": ChatPreset(top_logprobs=500, fields={**_UNSCALED, "cache_prompt": False}, first_timeout=300),
    "ollama": ChatPreset(fields=_UNSCALED, first_timeout=300),
    # Only providers that return log-probabilities get the request.
    "openrouter": ChatPreset(fields={**_UNSCALED, "provider": {"require_parameters": True}}),
    # What all servers of this form have in common, such as SGLang and LM Studio.
    "compatible": ChatPreset(fields=_UNSCALED, first_timeout=300),
}


class ChatLogprobs(Adapter):
    """Adapter for chat models: each class prompt is an option with a letter, and a letter's log-probability its score.

    The model answers with one token. Its score for a class is the log-probability of the class's letter, with or
    without a space before it, over the model's whole vocabulary.

    Parameters
    ----------
    model : str
        Name of the model; on Azure, of the deployment.
    preset : str or ChatPreset, default="openai"
        The service: "openai", "azure", "vllm", "llama.cpp", "ollama", "openrouter", or "compatible" for others of this
        form; or a preset of your own.
    prompt : str
        The text before the image. ``{options}`` stands for the options, one on each line, such as "A: a photo of a
        cat."
    labels : sequence of str, default="A" to "Z", then "a" to "z"
        Labels of the options, in order. Each should be one token of the model.
    top_logprobs : int or None, default=None
        Number of most likely tokens to ask for. None: the preset's, which is the most that the service returns.
    label_token_ids : sequence of int, "auto" or None, default="auto"
        Token ids of the labels, in order; their log-probabilities are then exact, however unlikely they are. "auto":
        requested from servers that have them, such as vLLM. None: labels are found among the most likely tokens, and
        the others are missing.
    structured_outputs : bool, default=False
        Whether the answer is constrained to the labels, on servers with vLLM's field of that name. Log-probabilities
        are then relative to those of the other labels, and do not show whether the model understands the question.
    detail : {"low", "high", "auto", "original"} or None, default=None
        Resolution at which the model sees the image. None: the service's default.
    reasoning_effort : str or None, default=None
        Most reasoning models return log-probabilities only with "none". None: it is not sent.
    extra : mapping or None, default=None
        Further fields of each request, which replace others of the same name; None as a value leaves a field out. They
        are shown and stored, so keys do not belong here.

    Notes
    -----
    The url of the scorer ends in ``/v1``: ``https://api.openai.com/v1``, ``http://localhost:8000/v1``, or
    ``https://my-resource.openai.azure.com/openai/v1``.

    Labels that are not among the most likely tokens have no score. If the labels together get less than 5 % of the
    probability, a `LabelMassWarning` says so; if no label occurs in more than 10 % of the answers, an error is raised.
    An answer that the model declines counts as a `Refusal`.

    Examples
    --------
    >>> from blackvip.scorers.http import ChatLogprobs, HTTPScorer
    >>> adapter = ChatLogprobs("gpt-5.4-nano", detail="low")
    >>> scorer = HTTPScorer("https://api.openai.com/v1", adapter, key="OPENAI_API_KEY")
    >>> scorer.max_class_prompts
    20
    """

    score_type = "logits"
    one_prompt_per_class = True
    # Token ids of each label, and what the answers have been like; of prepared adapters.
    _ids: list[list[int]] | None = None
    _seen: _Answers | None = None

    def __init__(
        self,
        model: str,
        preset: str | ChatPreset = "openai",
        *,
        prompt: str = PROMPT,
        labels: Sequence[str] = LETTERS,
        top_logprobs: int | None = None,
        label_token_ids: Sequence[int] | str | None = "auto",
        structured_outputs: bool = False,
        detail: str | None = None,
        reasoning_effort: str | None = None,
        extra: Mapping[str, Any] | None = None,
    ):
        self.model = model
        self.preset = preset
        self.prompt = prompt
        self.labels = labels
        self.top_logprobs = top_logprobs
        self.label_token_ids = label_token_ids
        self.structured_outputs = structured_outputs
        self.detail = detail
        self.reasoning_effort = reasoning_effort
        self.extra = extra

    @property
    def service(self) -> ChatPreset:
        """The preset."""
        return preset_of(self.preset, CHAT_PRESETS, ChatPreset)

    @property
    def max_class_prompts(self) -> int:  # type: ignore[override]
        """The most class prompts: as many as there are labels, and as the service returns log-probabilities of."""
        if self.label_token_ids is None or (self.label_token_ids == "auto" and self.service.tokenize is None):
            return min(len(self.labels), self._n_top)
        n_ids = 2 * len(self.labels) if self.label_token_ids == "auto" else len(self.label_token_ids)
        return min(len(self.labels), n_ids, _MOST_TOKEN_IDS // 2)

    @property
    def first_timeout(self) -> float | None:  # type: ignore[override]
        """Time limit in seconds until the service has answered for the first time."""
        return self.service.first_timeout

    def prepare(self, send: Send, class_prompts: list[str]) -> ChatLogprobs:
        """Check the parameters, and return a copy that knows the labels' token ids; see `Adapter`.

        Raises
        ------
        ValueError
            If a parameter is invalid.
        ClassPromptError
            If there are more class prompts than the server returns log-probabilities of.
        """
        self._check()
        labels = list(self.labels)[: len(class_prompts)]
        prepared = copy.copy(self)
        prepared._seen = _Answers(labels)
        if self.label_token_ids == "auto":
            exact = self.service.tokenize is not None
            prepared._ids = _requested_ids(partial(self._tokens_of, send), labels) if exact else None
        elif self.label_token_ids is not None:
            ids: Any = self.label_token_ids
            prepared._ids = [[int(token)] for token in ids[: len(labels)]]
        if prepared._ids is None and len(labels) > self._n_top:
            raise ClassPromptError(
                f"There are {len(labels)} class prompts, but the server returns no token ids, and so only the "
                f"log-probabilities of its {self._n_top} most likely tokens; expected at most {self._n_top}. Pass "
                "label_token_ids or fewer classes; or use decisions, such as SystemOne, or Embeddings, which take more."
            )
        return prepared

    def request(self, images: Images, class_prompts: list[str]) -> Request:
        """Build a request with the options and the image; see `Adapter`."""
        labels = list(self.labels)[: len(class_prompts)]
        options = "\n".join(f"{label}: {prompt}" for label, prompt in zip(labels, class_prompts))
        image: dict[str, Any] = {"url": data_url(images[0])}
        if self.detail is not None:
            image["detail"] = self.detail
        # The image comes last, so that services can keep what all requests have in common.
        content = [
            {"type": "text", "text": self.prompt.replace("{options}", options)},
            {"type": "image_url", "image_url": image},
        ]
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            self.service.max_tokens: 1,
            "logprobs": True,
        }
        if self._ids is None:
            body["top_logprobs"] = self._n_top
        else:
            body["logprob_token_ids"] = [token for tokens in self._ids for token in tokens]
            # Their texts do not tell all tokens apart.
            body["return_tokens_as_token_ids"] = True
        if self.structured_outputs:
            body["structured_outputs"] = {"choice": labels}
        if self.reasoning_effort is not None:
            body["reasoning_effort"] = self.reasoning_effort
        body |= {**self.service.fields, **(self.extra or {})}
        return Request("chat/completions", {name: value for name, value in body.items() if value is not None})

    def scores(self, answer: Any, class_prompts: list[str]) -> Any:
        """Return the log-probabilities of the labels, with -inf for missing ones, or a `Refusal`; see `Adapter`."""
        if "error" in answer and not answer.get("choices"):
            raise ServiceError(f"The service answered with an error: {shortened(answer['error'])}.")
        (choice,) = answer["choices"]
        message = choice.get("message") or {}
        if message.get("refusal") or choice.get("finish_reason") == "content_filter":
            said = message.get("refusal") or "content_filter"
            return [Refusal(f"The model {self.model!r} declined to answer: {shortened(said, 200)}.")]
        entries = self._entries(choice, message)
        labels = list(self.labels)[: len(class_prompts)]
        names: list[list[Any]] = [[label] for label in labels]
        if self._ids is not None:
            names = [[f"token_id:{token}" for token in tokens] for tokens in self._ids]
            self._check_complete(entries, names)
        row = np.array([_total(entries, alike) for alike in names])
        if self._seen is not None:
            self._seen.add(row, message)
        return [row]

    def authorize(self, request: Request, url: str, body: bytes, key: str | None) -> dict[str, str]:
        """Return the header with the key; see `Adapter`."""
        return key_header(self.service.key_header, key)

    @property
    def _n_top(self) -> int:
        return self.service.top_logprobs if self.top_logprobs is None else self.top_logprobs

    def _check(self) -> None:
        labels = list(self.labels)
        if len(set(map(_bare, labels))) < len(labels) or not all(map(_bare, labels)):
            raise ValueError(f"labels has {shortened(labels)}; expected texts that differ, and that are not blank.")
        if self.prompt.count("{options}") != 1:
            raise ValueError(f"prompt={shortened(self.prompt)!r} was given; expected a text with '{{options}}', once.")
        if isinstance(self.label_token_ids, str) and self.label_token_ids != "auto":
            raise ValueError(f"label_token_ids={self.label_token_ids!r} was given; expected 'auto', numbers, or None.")
        if "guided_choice" in (self.extra or {}):
            raise ValueError("extra has 'guided_choice', which vLLM ignores; expected structured_outputs=True.")

    def _tokens_of(self, send: Send, **text: Any) -> list[int]:
        """Return the token ids of a prompt, or of messages."""
        template = {name: value for name, value in (self.extra or {}).items() if name == "chat_template_kwargs"}
        answer = send(Request(self.service.tokenize or "", {"model": self.model, **text, **template}))
        tokens = answer.get("tokens") if isinstance(answer, dict) else None
        if not isinstance(tokens, list) or not all(isinstance(token, int) for token in tokens):
            raise ServiceError(
                f"The server answered {shortened(answer, 80)} at {self.service.tokenize!r}; expected token ids. Set "
                "label_token_ids=None, for the most likely tokens."
            )
        return tokens

    def _entries(self, choice: Mapping[str, Any], message: Mapping[str, Any]) -> list[tuple[str, float]]:
        """Return the tokens of the first position with their log-probabilities, without those that are missing."""
        content = (choice.get("logprobs") or {}).get("content")
        if not content or not content[0].get("top_logprobs"):
            raise ServiceError(
                f"The model {self.model!r} answered {shortened(message.get('content'), 40)!r} without "
                "log-probabilities; expected those of its most likely tokens. Not all models and providers do so, "
                "and most reasoning models only with reasoning_effort='none'. Use another model, or decisions or "
                "embeddings."
            )
        first = content[0]
        entries = [(entry["token"], entry["logprob"]) for entry in first["top_logprobs"]]
        # The token of the answer may be less likely than the most likely ones.
        sampled = first["token"], first.get("logprob", _LEAST_LOGPROB)
        if sampled not in entries:
            entries.append(sampled)
        return [(token, logprob) for token, logprob in entries if logprob is not None]

    def _check_complete(self, entries: list[tuple[str, float]], names: list[list[str]]) -> None:
        told = {token for token, _ in entries}
        missing = [name for alike in names for name in alike if name not in told]
        if missing:
            raise ServiceError(
                f"The server returned the log-probabilities of {shortened(sorted(told), 80)}, but not that of "
                f"{missing[0]}; expected those of all token ids. Does the server ignore logprob_token_ids? Set "
                "label_token_ids=None, for the most likely tokens."
            )


class _Answers:
    """Counts of the answers for one list of class prompts, shared by several threads."""

    def __init__(self, labels: list[str]):
        self._labels = labels
        self._mass = LabelMass()
        self._n = 0
        self._n_empty = 0
        self._lock = threading.Lock()

    def add(self, row: np.ndarray, message: Mapping[str, Any]) -> None:
        """Count the labels' log-probabilities of an answer; raises a `ServiceError` if many have none."""
        is_empty = not np.isfinite(row).any()
        with self._lock:
            self._n += 1
            self._n_empty += is_empty
            n, n_empty = self._n, self._n_empty
        if is_empty and are_too_many(n_empty, n):
            raise ServiceError(
                f"{n_empty} of {n} answers have none of the labels {self._labels[0]!r} to {self._labels[-1]!r} among "
                f"their most likely tokens; the last one begins {shortened(message.get('content'), 40)!r}. Expected "
                "answers that begin with a label. Change the prompt, set structured_outputs=True or label_token_ids "
                "on servers that have them, reasoning_effort='none' for models that think first, or use decisions or "
                "embeddings."
            )
        self._mass.add(float(np.exp(row).sum()))


def _requested_ids(tokens_of: Callable[..., list[int]], labels: list[str]) -> list[list[int]] | None:
    """Return the token ids that stand for each label, or None if the server does not return them.

    They are the token that follows the beginning of an answer, and the one with a space before it.
    """
    try:
        begin = tokens_of(messages=[_QUESTION])
    except ServiceError as error:
        if error.status in _UNKNOWN_PATH:
            return None
        raise
    ids: list[list[int]] = []
    for label in labels:
        own = _following(tokens_of, begin, label) or tokens_of(prompt=label, add_special_tokens=False)
        if len(own) != 1:
            raise ServiceError(
                f"The label {label!r} has {len(own)} tokens; expected one. Pass other labels, or label_token_ids=None."
            )
        spaced = tokens_of(prompt=f" {label}", add_special_tokens=False)
        ids.append(own if len(spaced) != 1 or spaced == own else own + spaced)
    together = [token for tokens in ids for token in tokens]
    if len(set(together)) < len(together):
        raise ServiceError(
            f"The labels {labels} have the tokens {ids}; expected others for each label. Pass other labels, or "
            "label_token_ids=None."
        )
    return ids


def _following(tokens_of: Callable[..., list[int]], begin: list[int], label: str) -> list[int]:
    """Return the tokens of a label after those of the beginning of an answer; none if the template does not show it."""
    messages = [_QUESTION, {"role": "assistant", "content": label}]
    try:
        whole = tokens_of(messages=messages, add_generation_prompt=False, continue_final_message=True)
    except ServiceError as error:
        # Not every template can continue an answer.
        if error.status != 400:
            raise
        return []
    return whole[len(begin) :] if whole[: len(begin)] == begin else []


def _total(entries: Iterable[tuple[str, float]], names: list[str]) -> float:
    """Return the logarithm of the probability of some tokens together, -inf if they are missing."""
    logprobs = [logprob for token, logprob in entries if _bare(token) in names and logprob > _LEAST_LOGPROB]
    return float(np.logaddexp.reduce(logprobs)) if logprobs else -np.inf


def _bare(token: str) -> str:
    return token.strip(_BLANKS)
