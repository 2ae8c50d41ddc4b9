"""OpenCLIP as a score function, on small models that are made from a configuration and saved by the tests."""

import gc
import json
import pickle
import warnings

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from scipy.special import softmax
from sklearn.base import clone

from blackvip import BlackVIPClassifier
from blackvip.exceptions import ClassPromptError, ImageError, PromptNotUsedWarning
from blackvip.scorers import dual_encoder
from blackvip.scorers import open_clip as module
from blackvip.scorers.local_models import loaded_models
from blackvip.scorers.open_clip import OpenCLIPScorer, resized_for_model

SIDE = 32
VISION = {"image_size": SIDE, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8}
TEXT = {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
CONFIGS = {
    "blackvip-clip": {"embed_dim": 48, "vision_cfg": VISION, "text_cfg": TEXT},
    "blackvip-sigmoid": {"embed_dim": 48, "vision_cfg": VISION, "text_cfg": TEXT, "init_logit_bias": -7.0},
    "blackvip-coca": {
        "embed_dim": 48,
        "vision_cfg": VISION | {"attentional_pool": True, "attn_pooler_heads": 4, "output_tokens": True},
        "text_cfg": TEXT | {"embed_cls": True, "output_tokens": True},
        "multimodal_cfg": TEXT | {"mlp_ratio": 2, "attn_pooler_heads": 4},
        "custom_text": True,
    },
}
PROMPTS = ["a photo of a cat.", "a photo of a dog.", "seven"]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Files of weights, by the name of their model, for which open_clip then has configurations."""
    folder = tmp_path_factory.mktemp("open_clip")
    files = {}
    for seed, (name, config) in enumerate(CONFIGS.items()):
        (folder / f"{name}.json").write_text(json.dumps(config))
        open_clip.add_model_config(folder / f"{name}.json")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = open_clip.create_model(name)
            with torch.no_grad():
                for parameter in model.parameters():  # else most of the embeddings are nearly alike
                    parameter.add_(0.05 * torch.randn_like(parameter))
        files[name] = folder / f"{name}.pt"
        torch.save(model.state_dict(), files[name])
    return files


@pytest.fixture
def scorer(checkpoints):
    return OpenCLIPScorer("blackvip-clip", checkpoints["blackvip-clip"], device="cpu")


def some_images(n=5, height=SIDE, width=SIDE, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, height, width, 3), dtype=np.uint8)


def as_tensor(images):
    return torch.tensor(images).permute(0, 3, 1, 2).float() / 255


def logits_by_open_clip(name, weights, images, texts_of_classes):
    """The same by open_clip's own preprocessing and forward pass, one image and one text at a time."""
    model, _, preprocess = open_clip.create_model_and_transforms(name, pretrained=str(weights))
    model.eval()
    tokenizer = open_clip.get_tokenizer(name)
    rows = []
    with torch.no_grad():
        for image in images:
            picture = model.encode_image(preprocess(Image.fromarray(image))[None])[0].double()
            row = []
            for texts in texts_of_classes:
                embeddings = [model.encode_text(tokenizer([text]))[0].double() for text in texts]
                mean = sum(embedding / embedding.norm() for embedding in embeddings) / len(texts)
                cosine = (picture @ mean) / (picture.norm() * mean.norm())
                bias = 0.0 if getattr(model, "logit_bias", None) is None else model.logit_bias.item()
                row.append(model.logit_scale.exp().item() * cosine.item() + bias)
            rows.append(row)
    return np.array(rows)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", CONFIGS)
def test_logits_are_those_of_open_clips_own_preprocessing_and_forward_pass(checkpoints, name):
    images = some_images()
    scorer = OpenCLIPScorer(name, checkpoints[name], device="cpu", batch_size=2)
    logits = scorer(images, PROMPTS)
    expected = logits_by_open_clip(name, checkpoints[name], images, [[prompt] for prompt in PROMPTS])
    assert (logits.shape, logits.dtype, scorer.score_type) == ((5, 3), np.float32, "logits")
    assert expected.std(axis=1).min() > 0.01  # of a model that tells them apart
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    images.flags.writeable = False
    for same in (as_tensor(images), as_tensor(images).double(), images, images.repeat(2, axis=2)[:, :, ::2]):
        np.testing.assert_array_equal(scorer(same, PROMPTS), logits)
    if name == "blackvip-sigmoid":
        assert np.allclose(expected.mean(), -7, atol=4)


def test_a_fit_with_several_prompts_per_class_starts_from_clips_ensemble(checkpoints):
    """The mean logit is the ensemble's, times the length of the mean of the normalised embeddings."""
    name, images, y = "blackvip-clip", some_images(8), np.arange(8) % 2
    prompts = {0: ["a cat", "a photo of a cat", "my cat"], 1: ["a dog"]}
    scorer = OpenCLIPScorer(name, checkpoints[name], device="cpu")
    clf = BlackVIPClassifier(scorer, prompts, prompter="invert", max_queries=16, verbose=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        clf.fit(images, y)
    ensembles = logits_by_open_clip(name, checkpoints[name], images, list(prompts.values()))
    model, tokenizer = open_clip.create_model(name, str(checkpoints[name])).eval(), open_clip.get_tokenizer(name)
    with torch.no_grad():
        embedded = [model.encode_text(tokenizer(texts), normalize=True).double() for texts in prompts.values()]
    lengths = [float(embeddings.mean(dim=0).norm()) for embeddings in embedded]
    assert 0 < lengths[0] < 1
    np.testing.assert_allclose(clf.scored_images_.plain, ensembles * lengths, atol=1e-4)


def test_a_prompt_ensemble_averages_normalised_embeddings(checkpoints):
    name, images = "blackvip-clip", some_images(3)
    templates = ["a photo of a {}.", "a drawing of a {}, and of another {}", "{}"]
    scorer = OpenCLIPScorer(name, checkpoints[name], templates=templates, device="cpu", batch_size=4)
    texts = [["a photo of a cat.", "a drawing of a cat, and of another cat", "cat"]]
    texts += [[text.replace("cat", "dog") for text in texts[0]]]
    expected = logits_by_open_clip(name, checkpoints[name], images, texts)
    np.testing.assert_allclose(scorer(images, ["cat", "dog"]), expected, atol=1e-4)
    scorer.set_params(templates="a photo of a {}.")
    expected = logits_by_open_clip(name, checkpoints[name], images, [text[:1] for text in texts])
    np.testing.assert_allclose(scorer(images, ["cat", "dog"]), expected, atol=1e-4)


@pytest.mark.parametrize("shape", [(32, 32), (48, 48), (47, 90), (90, 47), (20, 24), (20, 61)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("mode", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("size", [32, (28, 40)])
def test_images_are_resized_as_the_models_own_preprocessing_does(shape, interpolation, mode, size):
    preprocessing = {"size": size, "interpolation": interpolation, "resize_mode": mode, "fill_color": 128}
    preprocessing |= {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    smooth = np.asarray(Image.fromarray(some_images(1, 6, 6)[0]).resize(shape[::-1], Image.Resampling.BICUBIC))
    own = open_clip.transform.image_transform_v2(open_clip.transform.PreprocessCfg(**preprocessing), is_train=False)
    expected = own(Image.fromarray(smooth))
    resized = resized_for_model(as_tensor(smooth[None]), preprocessing)[0]
    assert resized.shape == expected.shape
    off = 255 * (resized - expected).abs()
    if (size, mode, interpolation) != ((28, 40), "shortest", "bilinear"):  # open_clip takes bicubic there all the same
        assert off.mean() < 0.5
        assert off.max() < 2.5  # Pillow rounds to 8 bits, and cuts overshoots off, twice
    assert 0 <= resized.min() <= resized.max() <= 1


def test_gradients_of_contrast_do_not_overshoot():
    checkerboard = np.kron(np.indices((8, 8)).sum(0) % 2, np.ones((3, 3)))
    resized = resized_for_model(torch.tensor(checkerboard).expand(1, 3, -1, -1), {"size": SIDE})
    assert (resized.min().item(), resized.max().item()) == (0, 1)


def test_larger_images_get_nearly_the_same_scores_as_by_open_clip(checkpoints):
    name = "blackvip-clip"
    images = np.repeat(np.repeat(some_images(4, 12, 15), 5, axis=1), 5, axis=2)
    logits = OpenCLIPScorer(name, checkpoints[name], device="cpu")(images, PROMPTS)
    expected = logits_by_open_clip(name, checkpoints[name], images, [[prompt] for prompt in PROMPTS])
    np.testing.assert_allclose(logits, expected, atol=0.02)


def test_a_local_directory_brings_configuration_preprocessing_and_weights(checkpoints, tmp_path):
    preprocess = {"mean": [0.5, 0.4, 0.3], "std": [0.5, 0.6, 0.7], "resize_mode": "squash", "interpolation": "bilinear"}
    config = {"model_cfg": CONFIGS["blackvip-clip"], "preprocess_cfg": preprocess}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    (tmp_path / "open_clip_model.pth").write_bytes(checkpoints["blackvip-clip"].read_bytes())
    scorer = OpenCLIPScorer(f"local-dir:{tmp_path}", device="cpu")
    images = some_images(3)
    if not hasattr(open_clip.factory, "LOCAL_DIR_PREFIX"):
        with pytest.raises(ValueError, match="needs open_clip_torch 3 or newer"):
            scorer(images, PROMPTS)
        return
    expected = logits_by_open_clip(scorer.model_name, "", images, [[prompt] for prompt in PROMPTS])
    np.testing.assert_allclose(scorer(images, PROMPTS), expected, atol=1e-4)
    plain = OpenCLIPScorer("blackvip-clip", checkpoints["blackvip-clip"], device="cpu")(images, PROMPTS)
    assert np.abs(scorer(images, PROMPTS) - plain).max() > 0.01
    with pytest.raises(ValueError, match="pretrained='openai' was given with .*already names its weights"):
        scorer.set_params(pretrained="openai")(images, PROMPTS)


@pytest.fixture
def listed(checkpoints, tmp_path):
    """Weights that open_clip lists for a model without QuickGELU, as trained with it; and the folder of downloads."""
    entry = {"url": checkpoints["blackvip-clip"].as_uri(), "quick_gelu": True, "mean": (0.5, 0.5, 0.5)}
    entry |= {"std": (0.25, 0.25, 0.25), "interpolation": "bicubic", "resize_mode": "squash"}
    open_clip.pretrained._PRETRAINED["blackvip-clip"] = {"e31": entry, "e32": entry}
    yield tmp_path / "downloads"
    del open_clip.pretrained._PRETRAINED["blackvip-clip"]


def test_listed_weights_load_by_name_with_the_activation_that_they_were_trained_with(checkpoints, listed):
    images = some_images(3)
    scorer = OpenCLIPScorer("blackvip/clip", "e31", device="cpu", cache_dir=listed)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        logits = scorer(images, PROMPTS)
    assert [file.name for file in listed.iterdir()] == ["blackvip-clip.pt"]
    model = open_clip.create_model(
        "blackvip-clip", pretrained=str(checkpoints["blackvip-clip"]), force_quick_gelu=True
    ).eval()
    with torch.no_grad():
        pixels = (as_tensor(images) - 0.5) / 0.25
        expected, _ = model.get_logits(pixels, open_clip.get_tokenizer("blackvip-clip")(PROMPTS))
    np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_wrong_names_are_errors_that_list_near_ones(listed, tmp_path):
    def message(model_name, pretrained=None):
        with pytest.raises(ValueError, match="open_clip|was given no weights") as caught:
            OpenCLIPScorer(model_name, pretrained, device="cpu")(some_images(1), PROMPTS)
        return str(caught.value)

    assert "knows no model 'ViT-B-23'; the closest: ViT-B-32" in message("ViT-B-23", "openai")
    assert "knows no model 'xyz'; open_clip.list_models() lists its models" in message("xyz")
    assert "no weights 'e3' for blackvip-clip, and there is no such file; it has e3" in message("blackvip-clip", "e3")
    near = message("ViT-B-32", "laion400m_e3")
    assert "the closest are" in near
    assert "laion400m_e32" in near
    assert "no such file; it has none." in message("blackvip-sigmoid", tmp_path / "nothing.pt")
    assert "one of e31, e32" in message("blackvip-clip")


def test_every_listed_pair_of_model_and_tag_is_known():
    pairs = open_clip.list_pretrained()
    known = [pair for pair in pairs if pair[0] in open_clip.list_models()]
    assert len(known) > 150
    assert len(pairs) - len(known) <= 2  # open_clip 2.29 lists two whose configuration it forgot
    for model_name, tag in known:
        listing = module._listing(model_name, tag)
        assert listing.get("url") or listing["hf_hub"]


def test_a_model_without_listed_weights_gets_the_same_random_ones_each_time(checkpoints):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    logits = [OpenCLIPScorer("blackvip-clip", device="cpu")(some_images(), PROMPTS) for _ in range(2)]
    assert torch.equal(torch.random.get_rng_state(), before)
    gc.collect()
    np.testing.assert_array_equal(logits[0], logits[1])


def test_the_model_is_loaded_once_for_all_and_freed_with_the_last(checkpoints):
    def n_loaded():
        gc.collect()
        return len(loaded_models)

    before = n_loaded()
    scorer = OpenCLIPScorer("blackvip-sigmoid", checkpoints["blackvip-sigmoid"], device="cpu")
    assert n_loaded() == before  # nothing is loaded before it is needed
    scorer(some_images(1), PROMPTS)
    twin, loaded = clone(scorer), pickle.loads(pickle.dumps(scorer))
    assert len(pickle.dumps(scorer)) < 1000
    assert twin.get_params() == loaded.get_params() == scorer.get_params()
    for other in (twin, loaded):
        np.testing.assert_array_equal(other(some_images(), PROMPTS), scorer(some_images(), PROMPTS))
    assert n_loaded() == before + 1
    del scorer, twin
    loaded.set_params(model_name="blackvip-clip", pretrained=checkpoints["blackvip-clip"])(some_images(1), PROMPTS)
    assert [tower for tower in loaded_models if tower._model.logit_bias is not None] == []
    del other, loaded
    assert n_loaded() == before


def test_a_checkpoint_that_was_overwritten_is_read_anew(checkpoints, tmp_path):
    path = tmp_path / "weights.pt"
    path.write_bytes(checkpoints["blackvip-clip"].read_bytes())
    first = OpenCLIPScorer("blackvip-clip", path, device="cpu")
    logits = first(some_images(2), PROMPTS)
    weights = torch.load(path, weights_only=True)
    weights["logit_scale"] += 1
    torch.save(weights, path)
    second = OpenCLIPScorer("blackvip-clip", path, device="cpu")
    np.testing.assert_allclose(second(some_images(2), PROMPTS), np.e * logits, rtol=1e-4)
    with pytest.raises(ValueError, match=r"weights.pt has changed since this OpenCLIPScorer loaded its model"):
        first(some_images(2), PROMPTS)


def test_a_checkpoint_is_identified_by_its_content_and_its_architecture(checkpoints, tmp_path):
    path = tmp_path / "weights.pt"
    path.write_bytes(checkpoints["blackvip-clip"].read_bytes())
    before = OpenCLIPScorer("blackvip-clip", path).identity
    assert OpenCLIPScorer("blackvip-clip", checkpoints["blackvip-clip"], device="cpu").identity == before
    assert OpenCLIPScorer("blackvip-coca", path).identity != before
    assert OpenCLIPScorer("ViT-B-32", "openai").identity is None  # its name says it all
    path.write_bytes(checkpoints["blackvip-sigmoid"].read_bytes())
    assert OpenCLIPScorer("blackvip-clip", path).identity != before


class CountingTokenizer:
    """Passes texts on, and keeps them."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.texts = []

    def __call__(self, texts):
        self.texts += texts
        return self.tokenizer(texts)


def test_texts_are_embedded_once_and_no_more_are_kept_than_the_bound(scorer, monkeypatch):
    images = some_images(2)
    scorer(images, PROMPTS)
    tower = scorer._model()
    tower._embeddings.clear()
    tower._last = (None, torch.empty(0))
    monkeypatch.setattr(tower, "_tokenizer", counting := CountingTokenizer(tower._tokenizer))
    monkeypatch.setattr(dual_encoder, "_MOST_PROMPTS", 4)
    logits = scorer(images, PROMPTS)
    scorer(images, PROMPTS)
    clone(scorer)(images, PROMPTS)
    np.testing.assert_array_equal(scorer(images, PROMPTS[::-1]), logits[:, ::-1])
    assert counting.texts == PROMPTS  # also in another order, as of a fold that lacks a class
    many = [f"number {k}" for k in range(6)]
    wide = scorer(images, [*many, *many[:2]])
    np.testing.assert_array_equal(wide[:, :2], wide[:, -2:])
    assert counting.texts == PROMPTS + many
    assert len(tower._embeddings) == 4
    scorer(images, PROMPTS)
    assert counting.texts == PROMPTS + many + PROMPTS


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_is_close_and_an_overflow_is_repeated_in_single_precision(checkpoints, tmp_path, precision):
    images, name = some_images(8), "blackvip-clip"
    single = OpenCLIPScorer(name, checkpoints[name], device="cpu")(images, PROMPTS)
    mixed = OpenCLIPScorer(name, checkpoints[name], device="cpu", precision=precision)(images, PROMPTS)
    assert 0 < np.abs(mixed - single).max() < {"bf16": 0.4, "fp16": 0.05}[precision]
    weights = torch.load(checkpoints[name], weights_only=True)
    weights["visual.proj"] *= 1e7  # beyond the range of fp16; of no consequence to the cosine
    torch.save(weights, tmp_path / "large.pt")
    large = OpenCLIPScorer(name, tmp_path / "large.pt", device="cpu", precision=precision)(images, PROMPTS)
    assert np.isfinite(large).all()
    if precision == "fp16":
        np.testing.assert_allclose(large, single, atol=1e-4)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 3, 32, 32), np.uint8), r"uint8 of shape \(2, 3, 32, 32\); expected uint8 of shape \(n, height"),
        (np.zeros((2, 32, 32, 3)), "float64 of shape .* expected uint8"),
        (torch.zeros(2, 3, 32, 32, dtype=torch.uint8), r"torch.uint8 .* expected floats in \[0, 1\]"),
        (torch.zeros(2, 32, 32, 3), "expected floats"),
    ],
)
def test_images_of_another_form_are_refused(scorer, images, message):
    with pytest.raises(ImageError, match=message):
        scorer(images, PROMPTS)


def test_wrong_parameters_are_refused_before_anything_is_loaded():
    images = some_images(1)
    for templates in ([], ["a photo of a {}.", "no place"], [3]):
        with pytest.raises(ClassPromptError, match="templates? .*(is empty|is not a text with)"):
            OpenCLIPScorer("blackvip-clip", templates=templates)(images, PROMPTS)
    for wrong in ({"batch_size": 0}, {"precision": "int8"}, {"model_name": None}):
        with pytest.raises(ValueError, match=f"The {next(iter(wrong))!r} parameter of OpenCLIPScorer must be"):
            OpenCLIPScorer("blackvip-clip").set_params(**wrong)(images, PROMPTS)


def test_no_images_have_no_scores(scorer):
    assert scorer(some_images(0), PROMPTS).shape == (0, 3)
    assert scorer(torch.zeros(0, 3, SIDE, SIDE), PROMPTS).shape == (0, 3)


def test_a_prompt_is_trained_on_it_with_images_that_stay_tensors(checkpoints):
    class Recording(OpenCLIPScorer):
        seen = []

        def __call__(self, images, class_prompts):
            self.seen.append(images)
            return super().__call__(images, class_prompts)

    rng = np.random.default_rng(0)
    y = np.repeat(["cat", "dog"], 20)
    X = rng.uniform(0, 0.4, (40, SIDE, SIDE, 3)) + np.where(y == "dog", 0.3, 0)[:, None, None, None]
    scorer = Recording("blackvip-clip", checkpoints["blackvip-clip"], device="cpu", batch_size=16)
    clf = BlackVIPClassifier(scorer, prompter="basis", max_queries=400, random_state=0, verbose=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PromptNotUsedWarning)
        clf.fit(X, y)
    assert clf.score_type_ == "logits"
    assert sum(map(len, scorer.seen)) == clf.n_queries_ <= 400
    assert max(map(len, scorer.seen)) <= 16
    assert all(isinstance(images, torch.Tensor) and images.dtype == torch.float32 for images in scorer.seen)
    log_proba = clf.baselines_["zero_shot"].held_out  # of the images as they are
    images = torch.from_numpy(X).permute(0, 3, 1, 2).float()
    expected = softmax(scorer(images, clf.class_prompts_), axis=1)
    np.testing.assert_allclose(np.exp(log_proba), expected, atol=1e-4)
