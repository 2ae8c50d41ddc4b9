"""Models of transformers, ONNX files and torch modules as score functions, against their own packages."""

import gc
import hashlib
import json
import pathlib
import pickle
import shutil
import threading
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

import numpy as np
import pytest
import torch
from PIL import Image
from servers.onnx_files import write_linear
from servers.shared import make_images
from sklearn.base import clone

from blackvip.scorers import LabelMappedScorer, OnnxScorer, TorchScorer, TransformersScorer
from blackvip.scorers.identity import service_identity
from blackvip.scorers.local_models import LoadedOnce, loaded_models

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")
PROMPTS = ["a photo of a cat.", "a photo of a dog.", "seven"]
SIDE = 32
# Images of the models' own size, which are not resized, and so are the same for Pillow and torch.
IMAGES = make_images(5, SIDE)
VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION |= {"image_size": SIDE, "patch_size": 8}
TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXT |= {"vocab_size": 40, "max_position_embeddings": 24, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


ALIGN_VISION = {"image_size": SIDE, "hidden_dim": 32, "in_channels": [32, 16, 24], "out_channels": [16, 24, 30]}
ALIGN_VISION |= {"kernel_sizes": [3, 3, 5], "strides": [1, 1, 2], "num_block_repeats": [1, 1, 1]}
ALIGN_VISION |= {"expand_ratios": [1, 2, 2], "depthwise_padding": []}
SQUARE = {"height": SIDE, "width": SIDE}
#: By kind: class of the model without "Model", of its image processor, configurations and settings of the latter.
KINDS = {
    "clip": ("CLIP", "CLIPImageProcessor", VISION, TEXT, {"size": {"shortest_edge": SIDE}, "crop_size": SQUARE}),
    "siglip": ("Siglip", "SiglipImageProcessor", VISION, TEXT, {"size": SQUARE}),
    # SigLIP 2 with images of one size has the model and the processor of SigLIP, and Gemma's tokenizer.
    "siglip2": ("Siglip", "SiglipImageProcessor", VISION, TEXT, {"size": SQUARE, "resample": 2}),
    "naflex": (
        *("Siglip2", "Siglip2ImageProcessor", VISION | {"num_patches": 16}, TEXT),
        {"patch_size": 8, "max_num_patches": 16},
    ),
    "align": (
        *("Align", "EfficientNetImageProcessor", ALIGN_VISION, TEXT),
        {"size": SQUARE, "rescale_factor": 1 / 127.5, "rescale_offset": True, "include_top": True},
    ),
}
LOWER = ("siglip2", "naflex")


def save_tokenizer(folder, **settings):
    words = ["<pad>", "<s>", "</s>", "<unk>", *["a", "photo", "of", "cat", "dog", "seven", "."]]
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: k for k, word in enumerate(words)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **{"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
        **settings,
    ).save_pretrained(folder)


def save_model(folder, kind, seed=0):
    name, processor, vision, text, settings = KINDS[kind]
    sizes = {"projection_dim": 64} if kind == "align" else {}  # what its vision tower returns
    config = getattr(transformers, f"{name}Config")(vision_config=vision, text_config=text, **sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = getattr(transformers, f"{name}Model")(config).eval()
        with torch.no_grad():
            for parameter in network.parameters():  # else most of the embeddings are nearly alike
                parameter.add_(0.1 * torch.randn_like(parameter))
    network.save_pretrained(folder)
    getattr(transformers, processor)(**settings).save_pretrained(folder)
    save_tokenizer(folder, **({"do_lower_case": True} if kind in LOWER else {}))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Saved models by their kind, made from configurations."""
    made = {kind: tmp_path_factory.mktemp(kind) for kind in KINDS}
    for kind, folder in made.items():
        save_model(folder, kind)
    return made


def own_logits(folder, images, kind, prompts):
    """The same by the whole forward pass of transformers, as the model's authors call it."""
    model = transformers.AutoModel.from_pretrained(folder).eval()
    pixels = transformers.AutoImageProcessor.from_pretrained(folder)(
        images=[Image.fromarray(image) for image in images], return_tensors="pt"
    )
    full = {"padding": "max_length", "max_length": 24} if kind in ("siglip", *LOWER) else {"padding": True}
    given = [prompt.lower() for prompt in prompts] if kind in LOWER else prompts
    texts = transformers.AutoTokenizer.from_pretrained(folder)(given, return_tensors="pt", **full)
    if "max_length" in full:
        texts.pop("attention_mask", None)
    texts.pop("token_type_ids", None)
    with torch.inference_mode():
        return model(**pixels, **texts).logits_per_image.numpy()


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_transformers(folders, kind):
    prompts = ["a photo of a cat.", "A photo of a Dog.", "seven"]
    scorer = TransformersScorer(folders[kind], device="cpu", batch_size=2)
    expected = own_logits(folders[kind], IMAGES, kind, prompts)
    assert np.ptp(expected, axis=1).min() > 1e-3
    np.testing.assert_allclose(scorer(IMAGES, prompts), expected, rtol=1e-5, atol=1e-5)
    as_tensor = torch.from_numpy(IMAGES).movedim(3, 1) / 255
    np.testing.assert_allclose(scorer(as_tensor, prompts), expected, rtol=1e-5, atol=1e-5)
    larger = make_images(2, 48, seed=1)
    rounded = own_logits(folders[kind], larger, kind, prompts)
    np.testing.assert_allclose(scorer(larger, prompts), rounded, rtol=1e-5, atol=1e-5)
    pixels = as_tensor.clone().requires_grad_()
    scorer.differentiable(prompts)(pixels).sum().backward()
    assert pixels.grad.isfinite().all()
    assert pixels.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_resized_tensors_do_not_overshoot_and_differ_from_pillow_by_rounding_alone(folders, kind):
    # Stripes, since Pillow clips twice where both directions overshoot.
    image = np.repeat(255 * (np.indices((45, 45)) // 3 % 2)[0, ..., None], 3, axis=2).astype(np.uint8)
    scorer = TransformersScorer(folders[kind], device="cpu")
    scorer(IMAGES[:1], PROMPTS)
    tensor = (torch.from_numpy(image).movedim(2, 0)[None] / 255).requires_grad_()
    resized = scorer._model().prepared(tensor)["pixel_values"]
    assert resized.requires_grad
    expected, *extremes = (
        transformers.AutoImageProcessor.from_pretrained(folders[kind])(
            images=[Image.fromarray(picture.astype(np.uint8))], return_tensors="pt"
        )["pixel_values"]
        for picture in (image, 0 * image, 255 + 0 * image)
    )
    levels = 255 * (resized - expected).abs() / (extremes[1] - extremes[0]).clamp(min=1e-6)
    assert levels.max() < 1.5
    assert (resized >= extremes[0] - 1e-5).all()
    assert (resized <= extremes[1] + 1e-5).all()


def test_a_folder_is_identified_by_its_content_alone(folders, tmp_path):
    """The same model elsewhere is the same service, and another model in the same folder is not."""
    here, there = tmp_path / "here", tmp_path / "there"
    shutil.copytree(folders["clip"], here)
    shutil.copytree(folders["clip"], there)
    (there / "README.md").write_text("A copy.")
    scorer = TransformersScorer(here, device="cpu")
    before, logits = service_identity(scorer), scorer(IMAGES, PROMPTS)
    assert service_identity(TransformersScorer(str(there), batch_size=3)) == before
    assert service_identity(TransformersScorer(here, templates="a {}")) != before
    assert service_identity(TransformersScorer(folders["siglip"])) != before
    save_model(here, "clip", seed=1)
    assert service_identity(clone(scorer)) != before
    with pytest.raises(ValueError, match="here has changed since this TransformersScorer loaded its model.* clone"):
        scorer(IMAGES, PROMPTS)
    assert np.abs(clone(scorer)(IMAGES, PROMPTS) - logits).max() > 1e-3
    # A repository on the hub is identified by its name.
    assert "openai/clip" in json.dumps(service_identity(TransformersScorer("openai/clip")))


def test_a_scale_under_an_unknown_name_is_found_and_other_logits_are_refused(folders, tmp_path, monkeypatch):
    expected = TransformersScorer(folders["siglip"], device="cpu")(IMAGES, PROMPTS)
    gc.collect()  # the model goes
    forward = transformers.SiglipModel.forward

    def changed(function):
        def patched(self, **given):
            answer = forward(self, **given)
            answer.logits_per_image = function(answer.logits_per_image)
            return answer

        return patched

    monkeypatch.setattr(transformers.SiglipModel, "forward", changed(lambda logits: 3 * logits + 2))
    found = TransformersScorer(folders["siglip"], device="cpu")(IMAGES, PROMPTS)
    np.testing.assert_allclose(found, 3 * expected + 2, rtol=1e-3)
    gc.collect()
    monkeypatch.setattr(transformers.SiglipModel, "forward", changed(lambda logits: (30 * logits).sin()))
    with pytest.raises(ValueError, match="a SiglipModel, whose logits are not scaled cosines"):
        TransformersScorer(folders["siglip"], device="cpu")(IMAGES, PROMPTS)


def test_a_model_is_loaded_once_and_a_pickle_holds_its_name(folders):
    scorer = TransformersScorer(folders["clip"], device="cpu")
    expected = scorer(IMAGES, PROMPTS)
    for twin in (clone(scorer), pickle.loads(pickle.dumps(scorer))):
        np.testing.assert_array_equal(twin(IMAGES, PROMPTS), expected)
        assert twin._model() is scorer._model()
    assert len(pickle.dumps(scorer)) < 1000
    del scorer, twin
    gc.collect()
    assert not [tower for tower in loaded_models if "Transformers" in type(tower).__name__]


def test_a_model_without_texts_is_refused(tmp_path):
    config = transformers.CLIPVisionConfig(**VISION)
    transformers.CLIPVisionModel(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="CLIPVisionModel, which lacks get_image_features and get_text_features"):
        TransformersScorer(tmp_path, device="cpu")(IMAGES, PROMPTS)


def test_a_module_keeps_its_modes_and_is_shared():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.9), torch.nn.Linear(3 * 8 * 8, 3))
    module[0].eval()
    scorer = TorchScorer(module, size=8, mean=(0.1, 0.2, 0.3), std=0.5, batch_size=2)
    images = make_images(5, 8)
    x = (torch.from_numpy(images).movedim(3, 1) / 255 - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / 0.5
    expected = torch.nn.functional.linear(x.flatten(1), module[2].weight, module[2].bias).detach().numpy()
    np.testing.assert_allclose(scorer(images, PROMPTS), expected, rtol=1e-5, atol=1e-6)
    assert [part.training for part in module] == [False, True, True]
    assert clone(scorer).module is module
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(scorer))(images, PROMPTS), scorer(images, PROMPTS))
    assert scorer(make_images(2, 20), PROMPTS).shape == (2, 3)
    before = json.dumps(service_identity(scorer), default=str)
    with torch.no_grad():
        module[2].bias.add_(1)
    assert json.dumps(service_identity(scorer), default=str) != before


@pytest.fixture(scope="module")
def onnx_file():
    """A network that ships in a package: whether a line of text is upside down."""
    rapidocr = pytest.importorskip("rapidocr")
    return next((pathlib.Path(rapidocr.__file__).parent / "models").glob("*cls*.onnx"))


def test_an_onnx_file_is_computed_by_onnxruntime(onnx_file, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    path = shutil.copy(onnx_file, tmp_path / "network.onnx")
    scorer = OnnxScorer(path, size=(48, 192), mean=0.5, std=0.5, n_threads=1, batch_size=2)
    images = np.random.default_rng(0).integers(0, 256, (3, 48, 192, 3), dtype=np.uint8)
    session = onnxruntime.InferenceSession(str(onnx_file))
    x = ((images.transpose(0, 3, 1, 2) / 255 - 0.5) / 0.5).astype(np.float32)
    expected = session.run(None, {session.get_inputs()[0].name: x})[0]
    np.testing.assert_allclose(scorer(images, ["up", "down"]), expected, rtol=1e-4, atol=1e-5)
    for twin in (clone(scorer), pickle.loads(pickle.dumps(scorer))):
        assert twin(images, ["up", "down"]).shape == (3, 2)
        assert twin._model() is scorer._model()
    mapped = LabelMappedScorer(scorer, labels=["up", "down"], mapping="text")
    np.testing.assert_allclose(mapped(images, ["down", "up"]), expected[:, ::-1], rtol=1e-4, atol=1e-5)
    same = OnnxScorer(onnx_file, size=(48, 192), mean=0.5, std=0.5)
    assert same.identity == scorer.identity != OnnxScorer(onnx_file).identity
    with pytest.raises(ValueError, match="has no input 'images'; expected one of 'x'"):
        OnnxScorer(path, input="images")(images, ["up", "down"])
    with pytest.raises(FileNotFoundError, match=r"There is no file .*nowhere.onnx'; expected the path"):
        OnnxScorer(tmp_path / "nowhere.onnx")(images, ["up", "down"])


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.uint8])
@pytest.mark.parametrize("n_at_once", [1, 4, "n"])
def test_an_onnx_file_gets_its_batch_size_and_its_type(tmp_path, dtype, n_at_once):
    pytest.importorskip("onnxruntime")
    weights = np.random.default_rng(0).normal(size=(3 * 8 * 8, 2)).astype(np.float32)
    path = write_linear(tmp_path / "network.onnx", weights, (n_at_once, 3, 8, 8), dtype)
    unit = {} if dtype == np.uint8 else {"mean": 0.5, "std": 0.5}
    for n_images in (1, 4, 6):
        images = make_images(n_images, 8)
        x = images.transpose(0, 3, 1, 2).reshape(n_images, -1)
        x = x if dtype == np.uint8 else ((x / 255 - 0.5) / 0.5).astype(dtype)
        scores = OnnxScorer(path, batch_size=3, **unit)(images, ["up", "down"])
        np.testing.assert_allclose(scores, x.astype(np.float64) @ weights, rtol=1e-4, atol=1e-4)
    # The file says to what size images are resized.
    assert OnnxScorer(path, **unit)(make_images(5, 20), ["up", "down"]).shape == (5, 2)
    if dtype == np.uint8:
        same = OnnxScorer(path, std=1 / 255)
        np.testing.assert_array_equal(same(images, ["up", "down"]), scores)
        with pytest.raises(ValueError, match="mean=0.5 .* takes pixels of type uint8, from 0 to 255; leave out mean"):
            OnnxScorer(path, mean=0.5)(images, ["up", "down"])


@pytest.mark.parametrize("external", [None, "network.onnx.data", "a long name " + "x" * 150])
def test_an_onnx_file_is_known_by_its_content_and_read_once(tmp_path, monkeypatch, external):
    pytest.importorskip("onnxruntime")
    weights, images, read = np.ones((3 * 8 * 8, 2)), make_images(5, 8), []
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
    path = write_linear(here / "network.onnx", weights, ("n", 3, 8, 8), external=external)
    elsewhere = write_linear(there / "other.onnx", weights, ("n", 3, 8, 8), external=external)
    file_digest = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda file, name: read.append(file.name) or file_digest(file, name))

    class Fixed(OnnxScorer):
        """It does not copy itself to score images."""

        def __getstate__(self):
            raise AssertionError

    scores = Fixed(path, batch_size=2)(images, ["up", "down"])
    scorer = OnnxScorer(path, mean=0)
    before = scorer.identity
    assert [scorer.identity, clone(scorer).identity, OnnxScorer(str(path), mean=(0, 0, 0)).identity] == [before] * 3
    assert sorted(read) == sorted(str(file) for file in here.iterdir())
    assert OnnxScorer(elsewhere).identity == before
    np.testing.assert_array_equal(scorer(images, ["up", "down"]), scores)
    write_linear(path, 2 * weights, ("n", 3, 8, 8), external=external)
    assert clone(scorer).identity != before
    np.testing.assert_allclose(clone(scorer)(images, ["up", "down"]), 2 * scores, rtol=1e-6)
    with pytest.raises(ValueError, match="has changed since this OnnxScorer loaded its model"):
        scorer(images, ["up", "down"])


def test_a_model_is_loaded_once_by_many_threads_and_others_need_not_wait():
    class Model:
        pass

    def load():
        loads.append(threading.get_ident())
        assert other_is_loaded.wait(10)
        return Model()

    def get_other():
        models.get("other", Model)
        other_is_loaded.set()

    models, loads, other_is_loaded = LoadedOnce(), [], threading.Event()
    with ThreadPoolExecutor(5) as pool:
        found = [pool.submit(models.get, "model", load) for _ in range(4)]
        pool.submit(get_other).result(10)
        assert len({id(model.result(10)) for model in found}) == len(loads) == 1
    del found
    gc.collect()
    assert len(models) == 0  # none that nobody holds
    with pytest.raises(OSError, match="no such file"):
        models.get("model", lambda: (_ for _ in ()).throw(OSError("no such file")))
    assert isinstance(models.get("model", Model), Model)


class Watched(torch.nn.Module):
    """Dropout and a linear map; the first of two calls ends while the second one is in the midst of it."""

    module = None
    seen = []
    first_is_done = threading.Event()
    both_are_in = threading.Barrier(2)

    def __init__(self):
        super().__init__()
        self.dropout, self.linear = torch.nn.Dropout(0.5), torch.nn.Linear(12, 3)
        self.linear.weight.requires_grad_(False)

    def forward(self, pixels):
        self.seen.append((Watched.module.training, self.linear.weight))
        if len(self.seen) <= 2:
            is_second = self.both_are_in.wait(10)
            assert not is_second or self.first_is_done.wait(10)
        return self.linear(self.dropout(pixels.flatten(1)))


def test_threads_share_a_module_in_training_mode_that_stays_so():
    Watched.module = module = Watched()
    Watched.seen.clear()
    images = make_images(2, 2)
    scorers = [TorchScorer(module), TorchScorer(module, device="cpu")]
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(scorer, images, PROMPTS) for scorer in scorers]
        wait(calls, return_when=FIRST_COMPLETED, timeout=10)
        Watched.first_is_done.set()
        found = [call.result(10) for call in calls]
    x = (torch.from_numpy(images).movedim(3, 1) / 255).flatten(1)
    with torch.no_grad():
        for scores in found:
            np.testing.assert_allclose(scores, module.linear(x), rtol=1e-5, atol=1e-6)
    assert [training for training, _ in Watched.seen] == [True, True]
    assert all(weight is module.linear.weight for _, weight in Watched.seen)  # no copies
    module.linear.weight.add_(1)
    assert np.abs(scorers[0](images, PROMPTS) - found[0]).max() > 0.1
    module.hook = threading.Lock()
    with pytest.raises(ValueError, match=r"a Watched, cannot be copied .*Call its methods eval\(\) and to\(\)"):
        scorers[0](images, PROMPTS)
    assert module.training
    module.eval()
    assert scorers[0](images, PROMPTS).shape == (2, 3)


def test_a_module_is_not_moved_and_its_copy_on_a_device_follows_its_weights():
    """ "meta" stands for a GPU; there are no numbers on it, so each call fails at its end."""
    Watched.module = module = Watched()
    Watched.seen[:] = [None] * 2
    scorer = TorchScorer(module, device="meta")
    for scoring in (scorer, clone(scorer), scorer):
        with pytest.raises(NotImplementedError):
            scoring(make_images(2, 2), PROMPTS)
    module.linear.weight.add_(1)
    with pytest.raises(NotImplementedError):
        scorer(make_images(2, 2), PROMPTS)
    first, second, third, fourth = (weight for _, weight in Watched.seen[2:])
    assert first is second is third
    assert fourth is not third
    assert first.device.type == "meta"
    assert module.training
    assert {parameter.device.type for parameter in module.parameters()} == {"cpu"}


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_device_computes_the_same_or_is_refused(device):
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
    images = make_images(2, 2)
    expected, scorer = TorchScorer(module)(images, PROMPTS), TorchScorer(module, device=device)
    if getattr(torch, device).is_available():
        np.testing.assert_allclose(scorer(images, PROMPTS), expected, rtol=1e-3, atol=1e-3)
        assert module[1].weight.device.type == "cpu"
    else:
        with pytest.raises(ValueError, match=f"The device '{device}' cannot be used on this machine; expected 'auto'"):
            scorer(images, PROMPTS)


def test_a_network_without_rows_of_scores_is_refused():
    images = make_images(2, 2)
    for module, found in [
        (torch.nn.Identity(), r"shape \(2, 3, 2, 2\)"),
        (torch.nn.MaxPool2d(2, return_indices=True), "is a tuple"),
    ]:
        with pytest.raises(ValueError, match=f"The network's output .*{found}; expected one row of scores for each of"):
            TorchScorer(module)(images, PROMPTS)
