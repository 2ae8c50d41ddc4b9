"""OpenAI's chat completions with log-probabilities, and what vLLM adds to them: token ids, and how to learn them.

The model gives nine tenths of the probability to the letters of the options, by the softmax of ten times the brightness
of an image's stripes. A quarter of a letter's share is that of its token with a blank before it.
"""

from __future__ import annotations

import base64
import re

import numpy as np

from servers.images import NO_IMAGES, decoded

BEGIN = [1, 2, 3]  # the tokens before an answer
OTHERS = {".": 0.06, "The": 0.03, "": 0.01}
MISSING = -9999.0


def token_of(text: str) -> int:
    """The id of a letter, or of a letter after a blank."""
    return ord(text[-1]) + 200 * (len(text) - 1)


def label_logprobs(scores: np.ndarray) -> np.ndarray:
    """What the model gives each label (n, n_classes), for the brightness of the stripes."""
    logits = 10 * scores
    return np.log(0.9) + logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)


def tokenize(headers, data):
    """vLLM's path of this name."""
    if "messages" in data:
        _, *rest = data["messages"]
        assert bool(rest) == data.get("continue_final_message", False) != data.get("add_generation_prompt", True)
        tokens = BEGIN + [token_of(message["content"]) for message in rest]
    else:
        assert data["add_special_tokens"] is False
        tokens = [token_of(data["prompt"])] if len(data["prompt"].strip()) == 1 else [9] * len(data["prompt"])
    told = {"count": len(tokens), "max_model_len": 512, "tokens": tokens, "token_strs": None}
    return NO_IMAGES, lambda scores: told, 1


def chat(headers, data):
    (message,) = data["messages"]
    text, image = message["content"]
    letters = re.findall(r"^(\w): ", text["text"], re.MULTILINE)
    kind, _, file = image["image_url"]["url"].partition(",")
    assert kind == "data:image/png;base64"
    assert (data.get("max_tokens") or data["max_completion_tokens"]) == 1
    assert data["logprobs"] is True
    assert data.get("top_logprobs", 0) <= 20, "at most 20"
    assert "guided_choice" not in data

    def answer(scores):
        told = []
        for letter, logprob in zip(letters, label_logprobs(scores)[0]):
            told += [(letter, logprob + np.log(0.75)), (" " + letter, logprob + np.log(0.25))]
        told = sorted(told + [(text, np.log(share)) for text, share in OTHERS.items()], key=lambda pair: -pair[1])
        sampled, top = told[0], told[: data.get("top_logprobs")]
        wanted = data.get("logprob_token_ids")
        if wanted:
            by_token = {token_of(text): logprob for text, logprob in told if text.strip() in letters}
            assert set(wanted) <= set(by_token), "out of the vocabulary"
            top = [(f"token_id:{token}", by_token[token]) for token in wanted]
            sampled = f"token_id:{token_of(sampled[0])}", sampled[1]
        return completion(sampled, top, data["model"])

    return decoded(base64.b64decode(file, validate=True))[None], answer, len(letters)


def completion(sampled, top, model="tiny", message=None, finish_reason="length"):
    """An answer with one token; without log-probabilities if `top` is None."""

    def entry(text, logprob):
        return {"token": text, "logprob": float(logprob), "bytes": list(text.encode()) or None}

    content = [{**entry(*sampled), "top_logprobs": [entry(*pair) for pair in top or []]}]
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": sampled[0], "refusal": None, **(message or {})},
        "logprobs": None if top is None else {"content": content, "refusal": None},
        "finish_reason": finish_reason,
    }
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_795_935_334,
        "model": model,
        "choices": [choice],
        "system_fingerprint": "fp_1",
        "usage": {"prompt_tokens": 90, "completion_tokens": 1, "total_tokens": 91},
    }


#: By the path of a request: of services, of vLLM, and what vLLM has beside its /v1.
CHAT = {"/chat/v1/chat/completions": chat, "/chat/tokenize": tokenize}
