"""Decision endpoints, for fakes.py: OpenAI's, Azure's, Google's, and those of the System One form.

A model likes options whose stripe is bright, and those that come early, see `probabilities`. Images of a single colour
are refused where refusals have a form. With DECISIONS_CHECKED=1 in
the environment, the types of the SDKs of OpenAI and Google judge each request and each answer.
"""

from __future__ import annotations

import base64
import importlib
import os
from collections import deque

import numpy as np

from servers.images import decoded

N_TOKENS = 90
MODEL = "decider-1"
# By the first part of the path: the rest of it, where images are, decimals, the most options, the header of the key.
_HOSTS = {
    "vllm": ("v1/systemone", "images", None, 26, "authorization"),
    "llama.cpp": ("v1/systemone", "images", None, 255, "authorization"),
    "ollama": ("v1/systemone", "images", None, 255, "authorization"),
    "lmstudio": ("v1/systemone", "images", None, 255, "authorization"),
    "openrouter": ("alpha/decisions", "state", 2, 255, "authorization"),
    "perplexity": ("v1/decisions", "state", 2, 255, "authorization"),
    "cloudflare": (f"@cf/cloudflare/{MODEL}", "images", 4, 255, "authorization"),
    "foundry": ("providers/microsoft/v1/systemone", "images", 2, 255, "api-key"),
    "typesafe": ("v1/systemone", "assets", 2, 255, "authorization"),
    # No preset is for it; a test makes one.
    "newcomer": (f"decide/{MODEL}", "files", 3, 12, "x-newcomer-key"),
}


def probabilities(scores: np.ndarray, order: list[int], decimals: int | None) -> np.ndarray:
    """(n_options,) brightness of the stripes to the probabilities of the options, in their own order."""
    weights = np.exp(6 * scores)
    weights[order] *= 0.9 ** np.arange(len(order))
    shares = weights / weights.sum()
    return shares if decimals is None else shares.round(decimals)


def pixels(url: str) -> np.ndarray:
    kind, _, text = url.partition(";base64,")
    assert kind in ("data:image/png", "data:image/jpeg"), kind
    return decoded(base64.b64decode(text, validate=True))[None]


def shares(options: dict, first: dict, scores: np.ndarray, decimals: int | None) -> dict:
    """Probabilities by option, for one question; the stripes belong to the options of the first question."""
    names = list(first)
    assert sorted(options) == sorted(names), "not the same options"
    order = [names.index(option) for option in options]
    return dict(zip(names, probabilities(scores[0], order, decimals).tolist()))


def openai(key_header: str):
    def fake(headers, data):
        requests, answers = checks()[:2]
        requests(data)
        assert not set(headers) & {"authorization", "api-key", "x-goog-api-key"} - {key_header}
        (message,) = data["input"]
        (part,) = message["content"]
        asked = {question["name"]: choices(question) for question in data["questions"]}
        assert len(asked) == len(data["questions"]) <= 400

        def answer(scores):
            if np.ptp(scores) == 0:
                told = [{"type": "refusal", "name": name} for name in asked]
            else:
                told = [chosen(name, shares(asked[name], next(iter(asked.values())), scores, 2)) for name in asked]
            details = {"input_tokens_details": {"cache_write_tokens": 0, "cached_tokens": 0}}
            details |= {"output_tokens_details": {"reasoning_tokens": 0}}
            usage = {"input_tokens": N_TOKENS, "output_tokens": 0, "total_tokens": N_TOKENS, **details}
            return answers({"answers": told, "model": data["model"], "usage": usage})

        return pixels(part["image_url"]), answer, len(next(iter(asked.values())))

    return fake


def choices(question: dict) -> dict:
    assert question["instructions"].strip()
    options = {choice["value"]: choice.get("description") for choice in question["choices"]}
    assert len(options) == len(question["choices"])
    assert 2 <= len(options) <= 255
    return options


def chosen(name: str, shares: dict) -> dict:
    best = max(shares, key=shares.get)
    # Not in the order of the question, and a text that could be a truth value comes as one.
    listed = [{"value": name == "true" if name in ("true", "false") else name, "probability": p}
              for name, p in sorted(shares.items())]  # fmt: skip
    return {"type": "choice", "name": name, "choice": best, "confidence": shares[best], "probabilities": listed}


def gemini(headers, data):
    requests, answers = checks()[2:]
    requests(data)
    assert not set(headers) & {"authorization", "api-key"}
    (part,) = data["input"]
    asked = {name: question["criteria"] for name, question in data["questions"].items()}
    assert all(2 <= len(options) <= 255 for options in asked.values())
    assert len(asked) <= 1000

    def answer(scores):
        usage = {"total_input_tokens": N_TOKENS, "total_output_tokens": 0, "total_tokens": N_TOKENS}
        if np.ptp(scores) == 0:
            return answers({"prompt_feedback": {"block_reason": "image_safety"}, "usage": usage})
        told = {name: shares(asked[name], next(iter(asked.values())), scores, 2) for name in asked}
        told = {
            name: {"type": "choice", "choice": max(p, key=p.get), "confidence": max(p.values()), "probabilities": p}
            for name, p in told.items()
        }
        return answers({"answers": told, "usage": usage})

    assert set(part) <= {"type", "data", "mime_type", "resolution"}
    image = decoded(base64.b64decode(part["data"], validate=True))[None]
    return image, answer, len(next(iter(asked.values())))


def system_one(host: str):
    """As vLLM's own models of requests: what they do not know is an error."""
    _, images, decimals, most, key_header = _HOSTS[host]

    def fake(headers, data):
        known = {"model", "state", "questions"} | ({images} if images != "state" else set())
        assert set(data) == known, sorted(data)
        assert not set(headers) & {"authorization", "api-key", "x-newcomer-key"} - {key_header}
        asked = {}
        for name, question in data["questions"].items():
            assert set(question) == {"type", "instructions", "criteria"}
            assert question["type"] == "choice"
            assert question["instructions"].strip()
            assert all(text is None or text.strip() for text in question["criteria"].values())
            asked[name] = question["criteria"]
            assert len(asked[name]) <= most, f"at most {most} options"
        if images == "state":
            image, text = data["state"]
            assert image["type"] == "image_url"
            url = image["image_url"]["url"]
        elif images == "assets":
            assert headers["typesafe-danger-zone-images"] == "true"
            ((name, asset),) = data["assets"].items()
            text = data["state"]
            assert name in text
            assert (asset["type"], asset["format"]) == ("image", "png")
            url = f"data:image/png;base64,{asset['data_base64']}"
        else:
            (url,), text = data[images], data["state"]
        assert isinstance(text, str)

        def answer(scores):
            told, first = {}, next(iter(asked.values()))
            for name, options in asked.items():
                p = shares(options, first, scores, decimals)
                told[name] = {"type": "choice", "choice": max(p, key=p.get), "confidence": max(p.values())}
                told[name]["probabilities"] = p
            usage = {"input_tokens": N_TOKENS, "output_tokens": 0}
            result = {"model": data["model"], "answers": told, "usage": usage}
            if host == "openrouter":
                usage["cost"] = 9e-6
            if host == "vllm":
                mass = 0.01 if data["model"] == "prose" else 0.9
                result["diagnostics"] = {name: {"label_mass": mass, "argmax_is_label": True} for name in asked}
            return {"result": result, "success": True, "errors": []} if host == "cloudflare" else result

        return pixels(url), answer, len(next(iter(asked.values())))

    return fake


def checks():
    """Functions that raise an error if the SDKs do not accept a request or an answer: of OpenAI, and of Google."""
    if not os.environ.get("DECISIONS_CHECKED"):
        return [lambda body: body] * 4
    if not _CHECKS:
        pydantic = importlib.import_module("pydantic")
        types = importlib.import_module("openai.types")
        params = importlib.import_module("openai.types.decision_create_params").DecisionCreateParams
        # It must outlive what it returns, which is checked while it is iterated over.
        requests = pydantic.TypeAdapter(params)
        google = importlib.import_module("google.genai._gaos.types.decisions")
        _CHECKS.extend(
            [
                lambda body: exhausted(requests.validate_python(body)),
                lambda body: types.Decision.model_validate(body) and body,
                google.CreateDecisionRequest.model_validate,
                lambda body: known(google.CreateDecisionResponse.model_validate(body)) and body,
            ]
        )
    return _CHECKS


def exhausted(value):
    """Iterable fields are only checked when they are used."""
    if isinstance(value, dict):
        for item in value.values():
            exhausted(item)
    elif not isinstance(value, (str, bytes)) and hasattr(value, "__iter__"):
        deque(map(exhausted, value), maxlen=0)
    return value


def known(response):
    """Google's type takes answers of a kind that it does not know."""
    assert all(answer.type == "choice" for answer in (response.answers or {}).values())
    return response


_CHECKS: list = []


def strict(fake):
    """What a fake does not expect is an assertion that fails."""

    def asserting(headers, data):
        try:
            return fake(headers, data)
        except (LookupError, TypeError, ValueError) as error:
            raise AssertionError(f"{type(error).__name__}: {error}") from error

    return asserting


#: By the path of a request.
DECISIONS = {
    "/openai/v1/decisions": strict(openai("authorization")),
    "/azure/openai/v1/decisions": strict(openai("api-key")),
    "/gemini/v1beta/decisions": strict(gemini),
    **{f"/{host}/{path}": strict(system_one(host)) for host, (path, *_) in _HOSTS.items()},
}
# Imports take seconds, so not at the first request.
checks()
