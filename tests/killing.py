"""Runs that are killed: ``python killing.py FOLDER RUN N_KILLS SEED`` kills runs at random moments.

RUN is fit or predict, an underscore, and how the service is asked: calls, answers or http. Each is begun again until it
has ended. It forks them, so that torch is imported once, and writes what came of them into FOLDER/report.json.
"""

import json
import os
import random
import signal
import sys
import time
import warnings
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import nullcontext
from hashlib import sha256

import joblib
import numpy as np
from conftest import ToyService, make_stripes
from servers.running import running
from servers.shared import scorer_of

from blackvip import BlackVIPClassifier

N_AT_ONCE = 4  # images that are with the service at a time
SECONDS = 0.004  # that it takes for them


class BilledService(ToyService):
    """A service that writes each image that it answers into a file, as a bill, before it answers."""

    images_per_call = N_AT_ONCE

    def __init__(self, bill):
        super().__init__(glare=0.7)
        self.bill = bill

    def __call__(self, images, class_prompts):
        time.sleep(SECONDS)
        scores = super().__call__(images, class_prompts)
        lines = "".join(f"{sha256(image).hexdigest()}\n" for image in images)
        descriptor = os.open(self.bill, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, lines.encode())
        os.close(descriptor)
        return scores


class ConcurrentService(BilledService):
    """The same, with one image in a request, several requests at a time, and answers in the order in which they come.

    A request is begun when an earlier answer has been taken and is on disk.
    """

    def answers(self, images, class_prompts):
        with ThreadPoolExecutor(N_AT_ONCE) as threads:
            rows, open_requests = iter(range(len(images))), {}
            while True:
                for row in rows:
                    request = threads.submit(BilledService.__call__, self, images[[row]], class_prompts)
                    open_requests[request] = row
                    if len(open_requests) == N_AT_ONCE:
                        break
                if not open_requests:
                    return
                done = wait(open_requests, return_when=FIRST_COMPLETED).done
                answered = [(open_requests.pop(request), request.result()) for request in done]
                yield [row for row, _ in answered], np.concatenate([scores for _, scores in answered])


def make_classifier(service, **parameters):
    defaults = dict(prompter="basis", head="calibrated", max_queries=250, random_state=0, verbose=0)
    return BlackVIPClassifier(service, "stripe {}", **{**defaults, **parameters})


def fit(service, checkpoint, folder):
    """What a fit leaves, as arrays."""
    clf = make_classifier(service, checkpoint=checkpoint).fit(*make_stripes(n=24, n_classes=3, background=0.6))
    history = np.array([[row["n_queries"], row["loss"], row["step_norm"]] for row in clf.history_])
    arrays = {"w": clf.coordinator_.parameters_, "n_queries": np.array(clf.n_queries_), "history": history}
    return {**arrays, "prompted": clf._scored.prompted, "coef": clf.head_.coef_, "intercept": clf.head_.intercept_}


def predict(service, checkpoint, folder):
    """What a prediction of many images gives."""
    clf = joblib.load(os.path.join(folder, "fitted.joblib")).set_params(score_fn=service, checkpoint=checkpoint)
    return {"proba": clf.predict_proba(make_stripes(n=300, n_classes=3, background=0.6, seed=1)[0])}


class Bills:
    """Services that write their bills into files of a folder, by the names of the runs that they serve."""

    def __init__(self, service, folder):
        self.service, self.folder = service, folder

    def begin(self, name):
        self.path = os.path.join(self.folder, f"{name}.bill")

    def make(self):
        return self.service(self.path)

    def n_images(self):
        try:
            with open(self.path, "rb") as file:
                return file.read().count(b"\n")
        except FileNotFoundError:
            return 0


class ServerBills:
    """A service over HTTP that counts by itself, a run at a time."""

    def __init__(self, server):
        self.server = server

    def begin(self, name):
        self.server.control(latency=SECONDS)

    def make(self):
        return scorer_of(self.server, n_concurrent=N_AT_ONCE)

    def n_images(self):
        return self.server.counts()["images"]


def started(work, bills, folder, name, checkpoint):
    """The id of a process that makes the run and writes what it leaves."""
    process = os.fork()
    if process:
        return process
    try:
        place = os.path.join(folder, name)
        left = work(bills.make(), f"{place}.journal" if checkpoint else None, folder)
        np.savez(f"{place}.part.npz", **left)
        os.replace(f"{place}.part.npz", f"{place}.npz")
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)  # nothing of what the parent would do at its end


def has_ended(process):
    return os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def wait_for_moment(process, bills, rng, duration):
    """Wait for a moment to kill: a random time, or a random number of images and a moment later."""
    if rng.random() < 0.25:
        moment = time.monotonic() + rng.uniform(0, duration)
        while time.monotonic() < moment and not has_ended(process):
            time.sleep(0.001)
        return
    n_images = bills.n_images() + rng.randrange(80)
    while bills.n_images() < n_images and not has_ended(process):
        time.sleep(0.0005)
    time.sleep(rng.uniform(0, 2 * SECONDS))


def kill_runs(folder, work, bills, n_kills, seed):
    """Kill a run and begin it again until it ends, and then another, until so many were killed; what came of it."""
    place = lambda name: os.path.join(folder, name)
    begin = time.monotonic()
    bills.begin("expected")
    assert os.waitpid(started(work, bills, folder, "expected", False), 0)[1] == 0
    duration, n_images = time.monotonic() - begin, bills.n_images()
    expected = dict(np.load(place("expected.npz")))
    rng, chains, left = random.Random(seed), [], n_kills
    while left:
        name, kills = f"chain{len(chains)}", []  # images that were paid for when it was killed
        bills.begin(name)
        while True:
            process = started(work, bills, folder, name, True)
            if left:
                wait_for_moment(process, bills, rng, duration)
                os.kill(process, signal.SIGKILL)  # one that has ended does not mind
            status = os.waitpid(process, 0)[1]
            if not os.WIFSIGNALED(status):
                break
            kills.append(bills.n_images())
            left -= 1
        assert status == 0, status
        found = dict(np.load(place(f"{name}.npz")))
        same = found.keys() == expected.keys() and all(np.array_equal(found[k], expected[k]) for k in expected)
        chains.append({"kills": kills, "paid": bills.n_images(), "same": same})
    return {"n_images": n_images, "at_once": N_AT_ONCE, "chains": chains}


def main(folder, run, n_kills, seed):
    warnings.simplefilter("ignore")
    kind, _, transport = run.partition("_")
    # The runs have what this fit has imported.
    clf = make_classifier(ToyService(glare=0.7)).fit(*make_stripes(n=24, n_classes=3, background=0.6))
    joblib.dump(clf, os.path.join(folder, "fitted.joblib"))
    with running() if transport == "http" else nullcontext() as server:
        services = {"calls": BilledService, "answers": ConcurrentService}
        bills = ServerBills(server) if transport == "http" else Bills(services[transport], folder)
        report = kill_runs(folder, {"fit": fit, "predict": predict}[kind], bills, n_kills, seed)
    with open(os.path.join(folder, "report.json"), "w") as file:
        json.dump(report, file)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
