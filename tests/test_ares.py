"""AReS: what it bills, what each stage computes, and that the second one learns from labels alone."""

import pickle

import numpy as np
import pytest
import torch
from conftest import RowReader, ToyService, make_stripes
from scipy.special import log_softmax, softmax
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

from blackvip import AReSClassifier, BudgetError, GradientEncoder, PCAEncoder, TimmEncoder
from blackvip.comparison.ares import _reprogrammed


@parametrize_with_checks([AReSClassifier(RowReader(), "{}", local_encoder="pca", epochs=2, random_state=0)])
def test_scikit_learn(estimator, check):
    check(estimator)


def test_each_training_image_is_sent_once_and_predictions_are_local(service, stripes):
    X, y = stripes
    clf = AReSClassifier(service, "{}", local_encoder="pca", epochs=3, random_state=0).fit(X, y)
    assert service.n_images == clf.n_queries_ == len(X)
    assert np.array_equal(np.concatenate([images for images, _ in service.calls]), X)
    clf.predict(X)
    assert service.n_images == len(X)
    clf.set_params(inference="both").predict(X)
    assert service.n_images == 2 * len(X)


def test_too_many_images_are_refused_before_any_is_sent(service, stripes):
    with pytest.raises(BudgetError, match="max_queries=39 does not pay for the 40"):
        AReSClassifier(service, "{}", max_queries=39).fit(*stripes)
    assert service.n_images == 0


def test_priming_learns_the_service_and_knows_no_label(stripes):
    """Two sets of labels, one service: the primed head is the same, and agrees with the service."""
    X, y = stripes
    service = ToyService(glare=0.3)
    kwargs = {"local_encoder": PCAEncoder(8), "epochs": 0, "prime_lr": 0.05, "random_state": 0}
    clf = AReSClassifier(service, "{}", **kwargs).fit(X, y)
    other = AReSClassifier(service, "{}", **kwargs).fit(X, np.roll(y, 7))
    assert np.array_equal(clf.coef_, other.coef_)
    teacher = softmax(service(X, ["0", "1"]), axis=1)
    pixels = torch.tensor(X).permute(0, 3, 1, 2).double() / 255
    outputs = clf.encoder_.encode(pixels).numpy() @ clf.coef_.T + clf.intercept_
    divergence = (teacher * (np.log(teacher) - log_softmax(outputs, axis=1))).sum(axis=1).mean()
    untaught = (teacher * (np.log(teacher) - np.log(teacher.mean(axis=0)))).sum(axis=1).mean()
    assert divergence < untaught / 4
    assert clf.priming_losses_[-1] < clf.priming_losses_[0]


def test_prediction_is_mapped_outputs_of_the_reprogrammed_image(service, stripes):
    X, y = stripes
    clf = AReSClassifier(service, "{}", local_encoder="pca", epochs=4, random_state=0).fit(X, y)
    pixels = torch.tensor(X).permute(0, 3, 1, 2).double() / 255
    outputs = clf.encoder_.encode(pixels + torch.from_numpy(clf.program_)).numpy() @ clf.coef_.T + clf.intercept_
    local = log_softmax(outputs @ clf.mapping_, axis=1)
    np.testing.assert_allclose(clf.predict_log_proba(X), local, atol=1e-6)  # pixels are of 32 bits there
    both = softmax(local, axis=1) * softmax(service(X, ["0", "1"]), axis=1)
    both /= both.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(clf.log_probas(X)["both"], np.log(both), atol=1e-6)


def test_mapping_is_blm_plus_of_the_final_outputs(service, stripes):
    X, y = stripes
    clf = AReSClassifier(service, "{}", local_encoder="pca", epochs=2, top_share=0.6, random_state=0).fit(X, y)
    pixels = torch.tensor(X).permute(0, 3, 1, 2).double() / 255
    outputs = clf.encoder_.encode(pixels + torch.from_numpy(clf.program_)).numpy() @ clf.coef_.T + clf.intercept_
    p = softmax(outputs, axis=1)
    counts = np.zeros((2, 2))
    for row, label in zip(p, y):
        counts[row.argmax(), label] += row.max()  # int(0.6 * 2) is one
    expected = counts / (counts.sum(axis=1, keepdims=True) + 1)
    np.testing.assert_allclose(clf.mapping_, expected / expected.sum(axis=0), atol=1e-6)


def test_frame_leaves_the_image_as_it_is():
    pixels, program = torch.rand(2, 3, 8, 12), torch.randn(3, 14, 21)
    canvas = _reprogrammed(pixels, program, "padding")
    assert torch.equal(canvas[:, :, 3:11, 4:16], pixels)
    torch.testing.assert_close(canvas[1, :, 0, :], 1 / (1 + torch.exp(-program[:, 0])))
    assert canvas.shape == (2, 3, 14, 21)


def test_second_stage_lowers_the_loss_on_labels():
    """A primed model of a service that mistakes all for the first class: the pattern moves images where they count."""
    X, y = make_stripes(60, side=12)
    service = ToyService(glare=0.6)
    kwargs = {"local_encoder": "pca", "prime_lr": 0.05, "random_state": 0}
    clf = AReSClassifier(service, "{}", epochs=40, lr=0.02, **kwargs).fit(X, y)
    assert np.mean(clf.losses_[-5:]) < 0.8 * np.mean(clf.losses_[:5])


@pytest.mark.parametrize("reprogramming", ["watermark", "padding"])
def test_gradient_features_learn_too(reprogramming, service):
    X, y = make_stripes(40, side=16)
    kwargs = {"reprogramming": reprogramming, "epochs": 3, "top_share": 1.0, "random_state": 0}
    clf = AReSClassifier(service, "{}", **kwargs).fit(X, y)
    assert np.isfinite(clf.program_).all()
    assert clf.program_.shape == ((3, 16, 16) if reprogramming == "watermark" else (3, 28, 28))
    assert np.abs(clf.program_).max() > 5e-3  # it has moved: a step is of 0.01


def test_same_seed_same_model_and_other_seed_another(service, stripes):
    fits = [
        AReSClassifier(service, "{}", local_encoder="pca", epochs=2, random_state=s).fit(*stripes) for s in (0, 0, 1)
    ]
    assert np.array_equal(fits[0].program_, fits[1].program_)
    assert not np.array_equal(fits[0].program_, fits[2].program_)


def test_global_generators_are_left_alone(service, stripes):
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    AReSClassifier(service, "{}", local_encoder="pca", epochs=2, random_state=0).fit(*stripes)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])


def test_clone_shares_the_service_and_pickles(stripes):
    reader = RowReader()
    clf = AReSClassifier(reader, "{}", local_encoder="pca", epochs=1, random_state=0)
    assert clone(clf).score_fn is reader
    fitted = clf.fit(*stripes)
    same = pickle.loads(pickle.dumps(fitted))
    assert np.array_equal(same.predict_log_proba(stripes[0]), fitted.predict_log_proba(stripes[0]))


def test_encoders_without_a_slope_are_refused(service, stripes):
    with pytest.raises(ValueError, match="expected a frozen encoder"):
        AReSClassifier(service, "{}", local_encoder="scratch").fit(*stripes)
    with pytest.raises(ValueError, match="local_encoder='pca' takes only images of"):
        AReSClassifier(service, "{}", local_encoder="pca", reprogramming="padding").fit(*stripes)
    assert service.n_images == 0


@pytest.mark.parametrize(
    ("encoder", "step", "tolerance"),
    [
        (PCAEncoder(20), 1e-6, 0.01),
        # Both compute in single precision, and are not smooth.
        (GradientEncoder(), 1e-3, 0.2),
        (TimmEncoder("test_resnet.r160_in1k", pretrained=False), 1e-3, 0.15),
    ],
)
def test_features_with_a_slope_are_those_of_the_encoder(encoder, step, tolerance):
    random = torch.Generator().manual_seed(0)
    pixels = 0.2 + 0.6 * torch.rand(6, 3, 20, 20, generator=random)  # bicubic resizing clips nothing of it
    encoder.fit_pixels(pixels)
    features = encoder.encode(pixels.clone().requires_grad_())
    np.testing.assert_allclose(features.detach().double(), encoder.features(pixels), atol=2e-5)
    # The slope is the difference quotient in some directions.
    x, directions = pixels[:1].double().requires_grad_(), torch.randn(20, 3, 20, 20, generator=random).double()
    weights = torch.randn(features.shape[1], generator=random).double()
    (slope,) = torch.autograd.grad(encoder.encode(x)[0] @ weights, [x])
    ahead, behind = (encoder.encode(x.detach() + sign * step * directions) @ weights for sign in (1, -1))
    quotients = (ahead - behind) / (2 * step)
    slopes = (slope * directions).sum(dim=(1, 2, 3))
    assert torch.linalg.norm(slopes - quotients) < tolerance * torch.linalg.norm(quotients)


@pytest.mark.parametrize("size", [(1, 30), (9, 5), (70, 130)])
def test_gradient_features_of_any_size(size):
    pixels = torch.rand(4, 3, *size)
    encoder = GradientEncoder().fit_pixels(pixels)
    np.testing.assert_allclose(encoder.encode(pixels.double()), encoder.features(pixels), atol=1e-9)
