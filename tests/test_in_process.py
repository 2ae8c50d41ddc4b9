"""Models of transformers, ONNX files and torch modules as score functions, against their own packages."""

import gc
import json
import pathlib
import pickle
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from servers.shared import make_images
from sklearn.base import clone

from blackvip.scorers import LabelMappedScorer, OnnxScorer, TorchScorer, TransformersScorer, dual_encoder
from blackvip.scorers.identity import service_identity

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


def save_tokenizer(folder):
    words = ["<pad>", "<s>", "</s>", "<unk>", *["a", "photo", "of", "cat", "dog", "seven", "."]]
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: k for k, word in enumerate(words)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Saved models by their kind, made from configurations."""
    made = {}
    kinds = {
        "clip": (transformers.CLIPConfig, transformers.CLIPModel, transformers.CLIPImageProcessor),
        "siglip": (transformers.SiglipConfig, transformers.SiglipModel, transformers.SiglipImageProcessor),
    }
    for name, (config, model, processor) in kinds.items():
        made[name] = folder = tmp_path_factory.mktemp(name)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = model(config(vision_config=VISION, text_config=TEXT)).eval()
            with torch.no_grad():
                for parameter in network.parameters():  # else most of the embeddings are nearly alike
                    parameter.add_(0.1 * torch.randn_like(parameter))
        network.save_pretrained(folder)
        size = {"shortest_edge": SIDE} if name == "clip" else {"height": SIDE, "width": SIDE}
        crop = {"crop_size": {"height": SIDE, "width": SIDE}} if name == "clip" else {}
        processor(size=size, **crop).save_pretrained(folder)
        save_tokenizer(folder)
    return made


def own_logits(folder, images, padding):
    model = transformers.AutoModel.from_pretrained(folder).eval()
    pixels = transformers.AutoImageProcessor.from_pretrained(folder)(
        images=[Image.fromarray(image) for image in images], return_tensors="pt"
    )
    texts = transformers.AutoTokenizer.from_pretrained(folder)(PROMPTS, return_tensors="pt", **padding)
    if model.config.model_type == "siglip":
        texts.pop("attention_mask", None)
    texts.pop("token_type_ids", None)
    with torch.inference_mode():
        return model(**pixels, **texts).logits_per_image.numpy()


PADDINGS = {"clip": {"padding": True}, "siglip": {"padding": "max_length", "max_length": 24}}


@pytest.mark.parametrize("kind", PADDINGS)
def test_logits_are_those_of_transformers(folders, kind):
    scorer = TransformersScorer(folders[kind], device="cpu", batch_size=2)
    expected = own_logits(folders[kind], IMAGES, PADDINGS[kind])
    assert np.ptp(expected, axis=1).min() > 1e-3
    np.testing.assert_allclose(scorer(IMAGES, PROMPTS), expected, rtol=1e-5, atol=1e-5)
    as_tensor = torch.from_numpy(IMAGES).movedim(3, 1) / 255
    np.testing.assert_allclose(scorer(as_tensor, PROMPTS), expected, rtol=1e-5, atol=1e-5)
    larger = make_images(2, 48, seed=1) // 4 + 96
    rounded = own_logits(folders[kind], larger, PADDINGS[kind])
    assert np.abs(scorer(larger, PROMPTS) - rounded).max() < 0.05 * np.ptp(rounded)
    pixels = as_tensor.clone().requires_grad_()
    scorer.differentiable(PROMPTS)(pixels).sum().backward()
    assert pixels.grad.isfinite().all()
    assert pixels.grad.abs().sum() > 0


def test_a_model_is_loaded_once_and_a_pickle_holds_its_name(folders):
    scorer = TransformersScorer(folders["clip"], device="cpu")
    expected = scorer(IMAGES, PROMPTS)
    for twin in (clone(scorer), pickle.loads(pickle.dumps(scorer))):
        np.testing.assert_array_equal(twin(IMAGES, PROMPTS), expected)
        assert twin._tower() is scorer._tower()
    assert len(pickle.dumps(scorer)) < 1000
    del scorer, twin
    gc.collect()
    assert not [tower for tower in dual_encoder._loaded_towers.values() if "Transformers" in type(tower).__name__]


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
        assert twin._session() is scorer._session()
    mapped = LabelMappedScorer(scorer, labels=["up", "down"], mapping="text")
    np.testing.assert_allclose(mapped(images, ["down", "up"]), expected[:, ::-1], rtol=1e-4, atol=1e-5)
    same = OnnxScorer(onnx_file, size=(48, 192), mean=0.5, std=0.5)
    assert same.identity == scorer.identity != OnnxScorer(onnx_file).identity
    with pytest.raises(ValueError, match="has no input 'images'; expected one of 'x'"):
        OnnxScorer(path, input="images")(images, ["up", "down"])
    with pytest.raises(FileNotFoundError, match=r"There is no file .*nowhere.onnx'; expected the path"):
        OnnxScorer(tmp_path / "nowhere.onnx")(images, ["up", "down"])
