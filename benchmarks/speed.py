"""What costs time and memory beside the service. Each part can be run alone; those that are compared take turns.

    a  a training step against a loop that is built as the reference's: a ViT-B/16 of open_clip as the service
    b  the share of a fit outside the service: a text reader, the same from memory, the ViT-B/16, and 50 ms over HTTP
    c  the decoder against the same layers of torch.nn
    d  how the time outside the service grows with images, classes, candidates and the size of the images
    e  torch.compile, of the decoder and of the ViT-B/16
    f  the heads for images without prompts, of 10 and of 100 classes

    OMP_NUM_THREADS=2 python benchmarks/speed.py [--parts a c] [--repetitions 5] [--json speed.jsonl]

Networks have random weights, so that nothing is downloaded: they take as long. Times are wall time, and processor time
of all threads, which another load on the machine changes less.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import platform
import sys
import tempfile
import time
from contextlib import redirect_stderr

import numpy as np
import torch
from scipy.special import log_softmax
from torch import nn
from torch.nn.functional import cross_entropy

from blackvip import BlackVIPClassifier, Coordinator, PromptBasis, TimmEncoder
from blackvip.encoders.timm import network
from blackvip.heads.decision import fit_without_prompt
from blackvip.heads.scored import ScoredImages
from blackvip.inputs.images import ImageFormat
from blackvip.inputs.training_set import TrainingSet
from blackvip.losses import Temperature
from blackvip.optimizers import SPSAGC
from blackvip.prompters.decoder import Decoder
from blackvip.scorers.ledger import Ledger
from blackvip.scorers.memory import AnswerMemory
from blackvip.scorers.open_clip import OpenCLIPScorer
from blackvip.training.features import TrainingFeatures
from blackvip.training.objective import Objective

HERE = pathlib.Path(__file__).parent
MODEL, ENCODER = "ViT-B-16", "vit_base_patch16_224"
PROMPTS = [
    f"a photo of a {name}." for name in ("cat", "dog", "bird", "fish", "horse", "cow", "fox", "bee", "ant", "owl")
]
SERVICES = ("reader", "memory", "vit", "http")
HTTP_LATENCY, HTTP_PLACES = 0.05, 32


class Clock:
    """Seconds of wall and of processor time, of a block: ``with Clock() as clock: ...``; they add up over blocks."""

    def __init__(self):
        self.wall = self.cpu = 0.0

    def __enter__(self):
        self._begin = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *error):
        self.wall += time.perf_counter() - self._begin[0]
        self.cpu += time.process_time() - self._begin[1]


def in_turns(repetitions, **functions):
    """Clocks of each function, over all repetitions, in which they take turns; a first round warms up."""
    clocks = {name: [] for name in functions}
    for repetition in range(repetitions + 1):
        for name, function in functions.items():
            with Clock() as clock:
                function()
            if repetition:
                clocks[name].append(clock)
    return clocks


def compared(clocks, ours, theirs):
    """Least and median seconds of both, and the ratio of each pair."""
    row = {}
    for kind in ("wall", "cpu"):
        values = {name: np.array([getattr(clock, kind) for clock in clocks[name]]) for name in (ours, theirs)}
        ratios = values[theirs] / values[ours]
        for name, seconds in values.items():
            row[f"{name}_{kind}_s"] = [round(float(value), 4) for value in (seconds.min(), np.median(seconds))]
        row[f"ratio_{kind}"] = [round(float(value), 2) for value in (ratios.min(), np.median(ratios), ratios.max())]
    return row


def random_vit(device="cpu"):
    """OpenCLIP's ViT-B/16 under another name, for which open_clip knows no weights and so draws them."""
    import open_clip

    service = f"blackvip-random-{MODEL}"
    if service not in open_clip.list_models():
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / f"{service}.json"
            path.write_text(json.dumps(open_clip.get_model_config(MODEL)))
            open_clip.add_model_config(path)
    # On a GPU, "auto" would be half precision, which the other loop does not use.
    return OpenCLIPScorer(service, device=device, precision="fp32")


def noisy_images(n, side, seed=0):
    """Waves with noise, (n, side, side, 3), uint8."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side][..., None] * (224 / side)
    phase = rng.uniform(0, 6, (n, 1, 1, 3))
    waves = 127 + 60 * np.sin(x / 17 + phase) * np.cos(y / 23)
    return np.clip(waves + rng.normal(0, 6, (n, side, side, 3)), 0, 255).astype(np.uint8)


# a


class ReferenceLike:
    """A step as the reference makes it: the encoder, the decoder and the service for one candidate after the other."""

    def __init__(self, coordinator, scorer, images, y):
        self.tower = scorer._model()
        device = self.tower.device
        self.encoder, config = network(ENCODER, False, str(device))
        self.encoder_mean, self.encoder_std = (
            torch.tensor(config[name], device=device).view(3, 1, 1) for name in ("mean", "std")
        )
        self.decoder = torch_layers(coordinator.decoder_).train().to(device)
        self.n_trigger = coordinator.n_trigger_
        self.order = flat_order(coordinator.decoder_)
        self.texts = self.tower.text_embeddings(PROMPTS, ("{}",), 64)
        self.x = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 255
        self.y = torch.from_numpy(y).to(device)

    @torch.no_grad()
    def losses(self, candidates):
        losses = []
        for w in torch.from_numpy(candidates).to(self.x.device).float():
            trigger, weights = w[: self.n_trigger], w[self.n_trigger :]
            nn.utils.vector_to_parameters(weights[self.order], self.decoder.parameters())
            z = self.encoder((self.x - self.encoder_mean) / self.encoder_std)
            cells = torch.cat([z, trigger.expand(len(z), -1)], dim=1).view(len(z), -1, 7, 7)
            prompted = (self.x + self.decoder(cells)).clamp(0, 1)
            losses.append(cross_entropy(self.tower.logits(prompted, self.texts, None), self.y).item())
        return np.array(losses)


def torch_layers(decoder):
    """The decoder as a stack of torch.nn layers."""
    layers, n_in = [], decoder.n_channels
    for stage, n_out in enumerate(decoder.widths[:-1]):
        n_mid = n_out if stage == 0 else n_in
        layers += [nn.ConvTranspose2d(n_in, n_mid, 2, 2, groups=n_in), nn.Conv2d(n_mid, n_out, 1, bias=False)]
        layers += [nn.BatchNorm2d(n_out), nn.GELU()]
        n_in = n_out
    return nn.Sequential(*layers, nn.ConvTranspose2d(n_in, decoder.widths[-1], 2, 2, bias=False))


def flat_order(decoder):
    """For each number of torch.nn's layers, the place that it has in a candidate; only 1x1 convolutions differ."""
    order = []
    for layer, part in zip(decoder.layers, torch.arange(decoder.n_parameters).split(decoder.sizes)):
        order.append(part.view(layer.shape).T.flatten() if layer.name.endswith(".mix") else part)
    return torch.cat(order)


def objective_of(prompter, images, y, ledger):
    data = TrainingSet(images, y, np.ones(len(y)), np.unique(y))
    return Objective(TrainingFeatures(prompter, images), data, ledger, AnswerMemory(), 1.0, Temperature(1.0))


def step(args):
    scorer = random_vit(args.device)
    n = args.batch
    images, y = noisy_images(n, 224), np.arange(n) % len(PROMPTS)
    image_format, opened = ImageFormat.learn(images)
    encoder = TimmEncoder(ENCODER, pretrained=False, device=args.device)
    coordinator = Coordinator(encoder).fit_pixels(image_format.pixels(images))
    objective = objective_of(coordinator, opened, y, Ledger(scorer, PROMPTS))
    optimizer = SPSAGC(a=0.01, c=0.01, n_directions=5)
    rng = np.random.default_rng(0)
    optimizer.start(
        Coordinator.initial_parameters(coordinator, rng) + 0.05 * rng.normal(size=coordinator.n_parameters_), rng
    )
    candidates = optimizer.ask()
    reference = ReferenceLike(coordinator, scorer, images, y)
    ours, theirs = objective.candidate_losses(candidates, np.arange(n)), reference.losses(candidates)
    difference = np.abs(ours - theirs).max()
    assert difference < 1e-4, difference
    pixels = opened.pixels(np.arange(n))
    clocks = in_turns(
        args.repetitions,
        ours=lambda: objective.candidate_losses(candidates, np.arange(n)),
        reference=lambda: reference.losses(candidates),
        service=lambda: [scorer(pixels, PROMPTS) for _ in candidates],
        encoder=lambda: [coordinator.features(pixels) for _ in candidates],
    )
    yield {
        "images": n,
        "candidates": len(candidates),
        "largest_difference_of_losses": float(difference),
        "spread_of_losses": float(np.ptp(ours)),
        **compared(clocks, "ours", "reference"),
        **{
            f"{name}_alone_wall_s": round(min(clock.wall for clock in clocks[name]), 4)
            for name in ("service", "encoder")
        },
    }


# b


def timed(service):
    """The service, whose class is one that keeps the time of its calls in `clock`."""
    clock = Clock()

    class Timed(type(service)):
        def __call__(self, images, class_prompts):
            with clock:
                return super().__call__(images, class_prompts)

    service.__class__ = Timed
    return service, clock


class Plain:
    """A plain function as an object."""

    def __init__(self, function):
        self.function = function

    def __call__(self, images, class_prompts):
        return self.function(images, class_prompts)


def fit_share(name, service, X, y, **parameters):
    service, inside = timed(service)
    clf = BlackVIPClassifier(service, random_state=0, verbose=0, **{"prompter": "basis", **parameters})
    with Clock() as whole:
        clf.fit(X, y)
    return {
        "service": name,
        "prompter": clf.prompter,
        "billed_images": clf.n_queries_,
        "fit_wall_s": round(whole.wall, 2),
        "outside_wall": round(1 - inside.wall / whole.wall, 4),
        "outside_cpu": round(1 - inside.cpu / whole.cpu, 4),
        "outside_ms_per_image": round(1000 * (whole.wall - inside.wall) / clf.n_queries_, 3),
    }


def shares(args):
    for name in args.services:
        of_services = {"reader": reader_shares, "memory": memory_shares, "vit": vit_shares, "http": http_shares}
        yield from of_services[name](args)


def reader_shares(args):
    from blackvip.demo import load_forms, text_reader

    X, y, *_ = load_forms("box")
    for _ in range(args.repetitions):
        for prompter, most in (("basis", 4_000), ("auto", 1_000), ("auto", 4_000)):
            parameters = {"class_prompts": "{}", "prompter": prompter, "max_queries": most}
            yield fit_share("text reader", Plain(text_reader()), X, y, **parameters)


class FromMemory:
    """A service whose answers to known images take almost no time; `seconds` has its processor time."""

    def __init__(self, function):
        self.function, self.known, self.seconds = function, {}, 0.0

    def __call__(self, images, class_prompts):
        begin = time.thread_time()
        keys = [image.tobytes() for image in images]
        new = [row for row, key in enumerate(keys) if key not in self.known]
        if new:
            self.known.update(zip((keys[row] for row in new), self.function(images[new], class_prompts)))
        scores = np.stack([self.known[key] for key in keys])
        self.seconds += time.thread_time() - begin
        return scores


def memory_shares(args):
    """What fits take themselves, in all threads: fits that send the same images as one before them."""
    from blackvip.demo import load_forms, text_reader

    X, y, *_ = load_forms("box")
    for prompter, most in (("basis", 4_000), ("auto", 1_000)):
        service, seconds = FromMemory(text_reader()), []
        for _ in range(args.repetitions + 1):
            clf = BlackVIPClassifier(service, "{}", prompter=prompter, max_queries=most, random_state=0, verbose=0)
            service.seconds = 0.0
            with Clock() as whole:
                clf.fit(X, y)
            seconds.append(whole.cpu - service.seconds)
        cpu = np.sort(seconds[1:])
        yield {
            "service": "text reader, from memory",
            "prompter": clf.prompter,
            "billed_images": clf.n_queries_,
            "outside_cpu_s": [round(float(value), 3) for value in (cpu.min(), np.median(cpu))],
            "outside_cpu_ms_per_image": round(1000 * float(cpu.min()) / clf.n_queries_, 3),
        }


def vit_shares(args):
    images, labels = noisy_images(20, 224), np.arange(20) % 10
    scorer = random_vit()
    scorer(images[:1], PROMPTS)  # it is loaded
    yield fit_share(
        "open_clip ViT-B/16", scorer, images, labels, class_prompts=PROMPTS, max_queries=args.vit_images, a=0.01, c=0.01
    )


def http_shares(args):
    sys.path.insert(0, str(HERE.parent / "tests"))
    from servers.running import running

    from blackvip.scorers.http import HTTPScorer, KServe

    images, labels = noisy_images(200, args.http_side), np.arange(200) % 2
    # Answers differ: a fit refuses a service that scores all images alike.
    answers = [
        {"outputs": [{"name": "scores", "shape": [1, 2], "datatype": "FP64", "data": data}]}
        for data in ([0.4, 0.6], [0.55, 0.45], [0.3, 0.7])
    ]
    with running() as server:
        for batch_size in (16, 128):
            server.control(latency=HTTP_LATENCY, places=HTTP_PLACES, turns=answers, extensions=["binary_tensor_data"])
            scorer = HTTPScorer(server.url, KServe("m"), n_concurrent=HTTP_PLACES, images_per_request=1)
            clf = BlackVIPClassifier(
                scorer,
                PROMPTS[:2],
                prompter="basis",
                a=0.01,
                c=0.05,
                max_queries=6_000,
                batch_size=batch_size,
                random_state=0,
                verbose=0,
            )
            with Clock() as whole:
                clf.fit(images, labels)
            ideal = clf.n_queries_ * HTTP_LATENCY / HTTP_PLACES
            yield {
                "service": "HTTP, 50 ms, 32 at once",
                "batch_size": batch_size,
                "side": args.http_side,
                "billed_images": clf.n_queries_,
                "fit_wall_s": round(whole.wall, 2),
                "ideal_wall_s": round(ideal, 2),
                "outside_wall": round(1 - ideal / whole.wall, 4),
                "cpu_ms_per_image": round(1000 * whole.cpu / clf.n_queries_, 3),
            }


# c


@torch.inference_mode()
def decoders(args):
    rng = np.random.default_rng(0)
    for n_stages, n_channels in ((3, 16), (4, 16), (5, 32)):
        decoder = Decoder(n_channels, n_stages)
        layers = torch_layers(decoder).train()
        for p in (1, 2, 5, 10):
            starts = [decoder.initial_parameters(rng, "random") for _ in range(p)]
            parameters = torch.tensor(np.stack(starts), dtype=torch.float32)
            cells = torch.randn(p, 32, n_channels, 49)
            pictures, order = cells.view(p, 32, n_channels, 7, 7), flat_order(decoder)

            def one_by_one(layers=layers, parameters=parameters, pictures=pictures, order=order):
                for weights, picture in zip(parameters, pictures):
                    nn.utils.vector_to_parameters(weights[order], layers.parameters())
                    layers(picture)

            clocks = in_turns(
                args.repetitions, ours=lambda d=decoder, w=parameters, c=cells: d(w, c), torch_nn=one_by_one
            )
            yield {"side": decoder.side, "candidates": p, "images": 32, **compared(clocks, "ours", "torch_nn")}


# d


def nothing(images, class_prompts):
    return np.full((len(images), len(class_prompts)), 0.5)


def growth(args):
    base = {"images": 32, "classes": 10, "candidates": 8, "side": 64}
    grid = {
        "images": (16, 32, 64, 128),
        "classes": (2, 10, 100, 1000),
        "candidates": (2, 8, 32),
        "side": (32, 64, 128, 224),
    }
    for prompter in (PromptBasis(), Coordinator()):
        for name, values in grid.items():
            for value in values:
                case = {**base, name: value}
                yield {"prompter": type(prompter).__name__, "grows": name, **case, **step_alone(prompter, case, args)}


def step_alone(prompter, case, args):
    """The time of a step but for the service, of which there is none."""
    n = case["images"]
    image_format, opened = ImageFormat.learn(noisy_images(n, case["side"]))
    prompter.fit_pixels(image_format.pixels(opened[:]))
    prompts = [str(number) for number in range(case["classes"])]
    y = np.arange(n) % case["classes"]
    objective = objective_of(prompter, opened, y, Ledger(nothing, prompts))
    optimizer = SPSAGC(a=0.01, c=0.01, n_directions=case["candidates"] // 2)
    rng = np.random.default_rng(0)
    optimizer.start(prompter.initial_parameters(rng), rng)
    clocks = in_turns(
        args.repetitions, step=lambda: optimizer.tell(objective.candidate_losses(optimizer.ask(), np.arange(n)))
    )["step"]
    per_image = 1000 / (n * case["candidates"])
    return {
        "wall_ms_per_sent_image": round(float(np.median([clock.wall for clock in clocks])) * per_image, 4),
        "cpu_ms_per_sent_image": round(float(np.min([clock.cpu for clock in clocks])) * per_image, 4),
    }


# e


@torch.inference_mode()
def compiled(args):
    decoder = Decoder(32)
    weights = torch.tensor(decoder.initial_parameters(np.random.default_rng(0), "random"), dtype=torch.float32)[None]
    cells = torch.randn(1, 32, 32, 49)
    scorer = random_vit()
    model, pixels = scorer._model()._model, torch.rand(4, 3, 224, 224)
    for name, function, arguments in (
        ("decoder, 224 px, 32 images", decoder, (weights, cells)),
        ("ViT-B/16, 4 images", model.encode_image, (pixels,)),
    ):
        with Clock() as compiling, redirect_stderr(sys.stdout):
            faster = torch.compile(function)
            faster(*arguments)
        clocks = in_turns(
            args.repetitions, compiled=lambda f=faster, a=arguments: f(*a), eager=lambda f=function, a=arguments: f(*a)
        )
        yield {"what": name, "compiling_s": round(compiling.wall, 1), **compared(clocks, "compiled", "eager")}


# f


def heads(args):
    for n_classes, n in ((10, 160), (100, 1_000)):
        rng, y = np.random.default_rng(0), np.arange(n) % n_classes
        scores = log_softmax(2.5 * np.eye(n_classes)[y] + rng.normal(size=(n, n_classes)), axis=1)
        blocks = (80, 1_040, 63)
        of_blocks = [0.16 * rng.normal(size=(n_classes, d))[y] + rng.normal(size=(n, d)) for d in blocks]
        features = np.hstack([block / np.sqrt(block.shape[1]) for block in of_blocks])
        scored = ScoredImages.before_training(
            y, np.ones(n), scores, features=features, held_out=np.zeros(n, bool), block_sizes=blocks
        )
        clocks = in_turns(args.repetitions, heads=lambda scored=scored: fit_without_prompt(scored, "auto"))["heads"]
        cpu = [clock.cpu for clock in clocks]
        yield {"classes": n_classes, "images": n, "cpu_s": [round(float(f(cpu)), 3) for f in (min, np.median)]}


PARTS = {"a": step, "b": shares, "c": decoders, "d": growth, "e": compiled, "f": heads}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--batch", type=int, default=4, help="a: images of a step (default: 4)")
    parser.add_argument("--device", default="cpu", help="a: where the networks run, such as cuda:0 (default: cpu)")
    parser.add_argument("--services", nargs="+", choices=SERVICES, default=SERVICES, help="b: which (default: all)")
    parser.add_argument("--vit-images", type=int, default=240, help="b: images that the ViT is sent (default: 240)")
    parser.add_argument(
        "--http-side", type=int, default=64, help="b: pixels, of the images sent over HTTP (default: 64)"
    )
    parser.add_argument("--json", help="append the figures to this file, a JSON object a line")
    args = parser.parse_args()
    machine = (
        f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}, {platform.machine()}"
    )
    print(machine)
    for part in args.parts:
        for row in PARTS[part](args):
            line = json.dumps({"part": part, "threads": torch.get_num_threads(), **row})
            print(line, flush=True)
            if args.json:
                with open(args.json, "a") as file:
                    file.write(line + "\n")


if __name__ == "__main__":
    main()
