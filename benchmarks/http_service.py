"""How busy a remote service is kept, what its client costs, and what other HTTP libraries would cost.

A service of 100 ms latency that works on 32 requests at once runs as another process on this machine. The client's cost
is its processor time, all threads. The service itself measures the share of its places' time, from the first request to
the last answer, in which they work.

    sent       3,200 noisy images of 224 x 224 pixels are scored, one in each request, as PNG, JPEG and, without
               encoding, pixels. PNG is not compressed for a service on the same machine; the second row compresses it
               as for one elsewhere. A round of requests before makes the connections.
    libraries  The PNG's request alone, 200 kB, from 32 threads or, with aiohttp, tasks: a connection of httpcore, which
               `HTTPScorer` uses, against others. They take turns; one that is not installed is left out.
    processes  1, 2, 4 and 8 processes with 32 requests each, for a service with a place for each request.

    python benchmarks/http_service.py [--parts sent libraries processes]
"""

import argparse
import asyncio
import http.client
import pathlib
import platform
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from importlib import metadata
from importlib.util import find_spec
from unittest import mock
from urllib.parse import urlsplit

import httpcore
import httpx
import numpy as np
import urllib3

from blackvip.scorers import ParallelScorer
from blackvip.scorers.http import HTTPScorer, HuggingFaceZeroShot, KServe
from blackvip.scorers.http.encoding import encode_image
from blackvip.scorers.http.json_bodies import to_json

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests"))
from servers.running import running

PLACES, LATENCY, SIDE = 32, 0.1, 224
PROMPTS = ["a photo of a cat.", "a photo of a dog."]
RANKED = [{"label": prompt, "score": 0.5} for prompt in PROMPTS]
TENSOR = {"outputs": [{"name": "scores", "shape": [1, 2], "datatype": "FP64", "data": [0.5, 0.5]}]}
HEADERS = {"accept": "*/*", "accept-encoding": "gzip", "user-agent": "blackvip", "content-type": "application/json"}
TIMEOUT = 30.0


def make_images(n):
    """Waves with noise, as a prompted photo compresses: to two thirds as PNG."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE][..., None]
    waves = 127 + 60 * np.sin(x / 17) * np.cos(y / 23) * np.array([1, 0.8, 0.6])
    noise = rng.normal(0, 6, (16, SIDE, SIDE, 3))
    few = np.clip(waves + noise, 0, 255).astype(np.uint8)
    return few[np.arange(n) % len(few)]


# sent


def measured(service, name, adapter, path, answer, images, **parameters):
    scorer = HTTPScorer(service.url + path, adapter, n_concurrent=PLACES, **parameters)
    settings = dict(latency=LATENCY, places=PLACES, quick=answer, extensions=["binary_tensor_data"])
    service.control(**settings)
    # Imports, and the connections.
    scorer(images[:PLACES], PROMPTS)
    service.control(**settings)
    begin, processor = time.perf_counter(), time.process_time()
    scores = scorer(images, PROMPTS)
    seconds, processor = time.perf_counter() - begin, time.process_time() - processor
    counts = service.counts()
    assert scores.shape == (len(images), 2)
    assert counts["images"] == len(images)
    print(
        f"{name:22s}{counts['busy_share']:12.1%}{1000 * processor / len(images):14.2f} ms{seconds:12.1f} s"
        f"{scorer.n_retries_:10d}{counts['connections']:13d}",
        flush=True,
    )


def show_sent(args):
    images = make_images(args.images)
    best = args.images * LATENCY / PLACES
    print(f"{args.images} images of {SIDE} x {SIDE}, {PLACES} places, {LATENCY * 1000:.0f} ms; at best {best:.1f} s")
    names = ("places busy", 12), ("CPU per image", 17), ("wall time", 14), ("retries", 10), ("connections", 13)
    print(f"{'sent as':22s}" + "".join(f"{name:>{width}s}" for name, width in names))
    with running() as service:
        zero_shot = HuggingFaceZeroShot(), "/hf", RANKED, images
        measured(service, "PNG in base64", *zero_shot)
        with mock.patch("blackvip.scorers.http.service.is_loopback", return_value=False):
            measured(service, "the same, compressed", *zero_shot)
        measured(service, "JPEG 95 in base64", *zero_shot, image_format="jpeg")
        measured(service, "binary tensor", KServe("m"), "", TENSOR, images, images_per_request=1)


# libraries: functions that make a connection, and return how to send a request over it


def over_http_client(url, body):
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=TIMEOUT)

    def send():
        connection.request("POST", parts.path, body, HEADERS)
        return connection.getresponse().read()

    return send


def over_urllib3(url, body):
    parts = urlsplit(url)
    pool = urllib3.HTTPConnectionPool(parts.hostname, parts.port, maxsize=1, timeout=TIMEOUT)

    def send():
        # Read in pieces, as a limit of bytes requires.
        answer = pool.urlopen("POST", parts.path, body, HEADERS, retries=False, redirect=False, preload_content=False)
        content = b"".join(answer.stream(decode_content=False))
        answer.release_conn()
        return content

    return send


def over_httpcore(url, body):
    return sending_with_httpcore(url, body, httpcore.ConnectionPool(max_connections=1))


def over_httpcore_connection(url, body):
    return sending_with_httpcore(url, body, httpcore.HTTPConnection(httpcore.URL(url).origin))


def sending_with_httpcore(url, body, pool_or_connection):
    headers = {**HEADERS, "host": urlsplit(url).netloc, "content-length": str(len(body))}
    target, extensions = httpcore.URL(url), {"timeout": httpx.Timeout(TIMEOUT).as_dict()}

    def send():
        request = httpcore.Request("POST", target, headers=headers, content=body, extensions=extensions)
        with closing(pool_or_connection.handle_request(request)) as answer:
            return b"".join(answer.iter_stream())

    return send


def over_httpx_transport(url, body):
    transport = httpx.HTTPTransport(limits=httpx.Limits(max_connections=1))
    url, extensions = httpx.URL(url), {"timeout": httpx.Timeout(TIMEOUT).as_dict()}

    def send():
        request = httpx.Request("POST", url, headers=HEADERS, content=body, extensions=extensions)
        with closing(transport.handle_request(request)) as answer:
            return b"".join(answer.iter_raw())

    return send


def over_httpx_client(url, body):
    client = httpx.Client(timeout=TIMEOUT)
    return lambda: client.post(url, content=body, headers=HEADERS).content


THREADED = {
    "httpcore, a connection": over_httpcore_connection,
    "httpcore, a pool": over_httpcore,
    "httpx, its transport": over_httpx_transport,
    "httpx.Client": over_httpx_client,
    "urllib3": over_urllib3,
    "http.client": over_http_client,
}


def in_threads(connect, url, body, n_rounds):
    """Seconds of processor time of a request, sent by as many threads as there are places."""
    sends = [connect(url, body) for _ in range(PLACES)]

    def work(send, n_requests):
        for _ in range(n_requests):
            assert send().startswith(b"[{")

    with ThreadPoolExecutor(PLACES) as pool:
        list(pool.map(work, sends, [1] * PLACES))
        begin = time.process_time()
        list(pool.map(work, sends, [n_rounds] * PLACES))
        return (time.process_time() - begin) / (PLACES * n_rounds)


async def in_tasks(url, body, n_rounds):
    """Seconds of processor time of a request, sent with aiohttp by as many tasks as there are places."""
    import aiohttp

    connector, timeout = aiohttp.TCPConnector(limit=PLACES), aiohttp.ClientTimeout(TIMEOUT)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as session:

        async def work(n_requests):
            for _ in range(n_requests):
                async with session.post(url, data=body, headers=HEADERS, allow_redirects=False) as answer:
                    assert (await answer.read()).startswith(b"[{")

        await asyncio.gather(*[work(1) for _ in range(PLACES)])
        begin = time.process_time()
        await asyncio.gather(*[work(n_rounds) for _ in range(PLACES)])
        return (time.process_time() - begin) / (PLACES * n_rounds)


def show_libraries(args):
    file = encode_image(make_images(1)[0], compressed=False)
    body = to_json(HuggingFaceZeroShot().request([file], PROMPTS))
    seconds = {name: [] for name in THREADED}
    if find_spec("aiohttp"):
        seconds["aiohttp"] = []
    names = [name for name in ("httpx", "httpcore", "urllib3", "aiohttp") if find_spec(name)]
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in names)
    print(f"one request of {len(body):,} bytes; Python {platform.python_version()}, {versions}")
    print(f"{'library':22s}{'CPU per request, least':>24s}{'median':>10s}{'of':>4s}")
    with running() as service:
        service.control(latency=LATENCY, places=PLACES, quick=RANKED)
        url = f"{service.url}/hf"
        for _ in range(args.repetitions):
            for name, measured_seconds in seconds.items():
                if name in THREADED:
                    measured_seconds.append(in_threads(THREADED[name], url, body, n_rounds=20))
                else:
                    measured_seconds.append(asyncio.run(in_tasks(url, body, n_rounds=20)))
    for name, found in seconds.items():
        print(f"{name:22s}{1000 * min(found):21.3f} ms{1000 * statistics.median(found):7.3f} ms{len(found):4d}")


# processes


def show_processes(args, n_rounds=16):
    latency = args.latency
    print(f"{latency * 1000:.0f} ms, {PLACES} requests at a time in each process, {n_rounds} rounds of them")
    print(f"{'processes':22s}{'busy places, of':>18s}{'share':>9s}{'images per second':>20s}")
    with running() as service:
        for n_processes in args.processes:
            n_places = n_processes * PLACES
            images = make_images(n_rounds * n_places)
            scorer = HTTPScorer(f"{service.url}/hf", HuggingFaceZeroShot(), n_concurrent=PLACES)
            # Wrapped by hand, since `n_jobs` of a classifier does not spread what makes concurrent requests.
            parallel = ParallelScorer(scorer, n_processes, images_per_part=n_rounds * PLACES).for_one_run()
            service.control(quick=RANKED)
            # The imports of the workers.
            parallel(images, PROMPTS)
            service.control(latency=latency, places=n_places, quick=RANKED)
            begin = time.perf_counter()
            assert len(parallel(images, PROMPTS)) == len(images)
            seconds, counts = time.perf_counter() - begin, service.counts()
            share = counts["busy_share"]
            print(
                f"{n_processes:<22d}{share * n_places:12.1f} {n_places:5d}{share:9.1%}{len(images) / seconds:20.1f}",
                flush=True,
            )


PARTS = {"sent": show_sent, "libraries": show_libraries, "processes": show_processes}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--images", type=int, default=3200, help="sent: number of images (default: 3200)")
    parser.add_argument("--repetitions", type=int, default=5, help="libraries: number of turns (default: 5)")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4, 8], help="processes: their numbers")
    parser.add_argument("--latency", type=float, default=0.4, help="processes: seconds of a request (default: 0.4)")
    args = parser.parse_args()
    for place, part in enumerate(args.parts):
        print(end="\n" if place else "")
        PARTS[part](args)


if __name__ == "__main__":
    main()
