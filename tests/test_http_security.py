"""Keys that nobody sees, and connections that go where they should."""

import http.server
import io
import logging
import pickle
import ssl
import subprocess
import threading
import traceback
from functools import partial

import joblib
import numpy as np
import pytest
from servers.app import stripe_scores
from servers.shared import FAKED, PROMPTS, Own, make_images, scorer_of
from sklearn.base import clone

from blackvip import BlackVIPClassifier
from blackvip.exceptions import ScoreError
from blackvip.scorers.http import HTTPScorer, ServiceError, TorchServe
from blackvip.scorers.http.keys import without_secrets

SECRET = "kaboom/Secret+5f3a9b"
ENCODED = ["kaboom", "5f3a9b", "kaboom%2F", "a2Fib29tL1Nl"]  # parts, percent-encoded, in base64


@pytest.fixture
def service(remote, monkeypatch):
    remote.control(key=SECRET)
    monkeypatch.setenv("A_KEY", SECRET)
    return remote


def read_key():
    return SECRET


@pytest.mark.parametrize("name", [name for name in FAKED if FAKED[name].has_key])
def test_the_key_goes_to_the_service_and_nowhere_else(service, caplog, tmp_path, capfd, name):
    caplog.set_level(logging.DEBUG)
    texts, (make, path, _) = [], FAKED[name]
    for key in ("A_KEY", read_key) if name == "own" else ("A_KEY",):
        scorer = scorer_of(service, make(), path, key=key)
        scores = scorer(make_images(3), PROMPTS)
        if name == "own":
            assert np.array_equal(scores, stripe_scores(make_images(3), 3))
        for fault in ("400", "500", "nan", "redirect http://localhost:1/x", "torn", "other"):
            service.control(key=SECRET, script=[fault] * 4)
            with pytest.raises(ScoreError) as caught:
                scorer_of(service, make(), path, key=key, max_attempts=1)(make_images(1), PROMPTS)
            texts += traceback.format_exception(caught.value)
            texts.append(repr(caught.value.__context__))
        service.control(key=SECRET)
        joblib.dump(scorer, tmp_path / "scorer.joblib")
        classifier = BlackVIPClassifier(scorer)
        for thing in (scorer, clone(scorer), classifier, scorer.adapter):
            texts += [repr(thing), thing._repr_html_(), str(vars(thing)), pickle.dumps(thing).decode("latin-1")]
        texts.append((tmp_path / "scorer.joblib").read_bytes().decode("latin-1"))
    texts += [caplog.text, *capfd.readouterr(), *(str(vars(record)) for record in caplog.records)]
    assert "send_request_headers" in caplog.text  # the log of httpx's parts is among them
    text = "".join(texts)
    for part in (SECRET, *ENCODED):
        assert part not in text


def test_an_error_shows_what_the_service_said_without_the_key(service):
    service.control(script=["400"])
    with pytest.raises(ServiceError, match='{"error": "status 400", "sent": "\\*\\*\\*"}'):
        scorer_of(service, key="A_KEY")(make_images(1), PROMPTS)


def test_a_wrong_key(service, monkeypatch):
    monkeypatch.setenv("A_KEY", "another-wrong-one")
    with pytest.raises(ServiceError, match="401 .*no such key: .*Is the key correct") as caught:
        scorer_of(service, key="A_KEY")(make_images(1), PROMPTS)
    assert "another" not in str(caught.value)


def test_a_key_is_read_for_each_request(service):
    keys = iter([SECRET] * 3)
    scorer = scorer_of(service, key=lambda: next(keys), n_concurrent=1)
    scorer(make_images(3), PROMPTS)
    assert next(keys, None) is None


def test_without_a_key_no_header_is_sent(service):
    service.control()
    scorer_of(service)(make_images(1), PROMPTS)
    assert "authorization" not in service.counts()["seen"]["headers"]


@pytest.mark.parametrize("value", [None, "", "  \n", "with\nnewline", "schlüssel"])
def test_a_key_that_is_missing_or_no_header(service, monkeypatch, value):
    monkeypatch.delenv("A_KEY")
    if value is not None:
        monkeypatch.setenv("A_KEY", value)
    with pytest.raises(ServiceError, match="the environment variable A_KEY") as caught:
        scorer_of(service, key="A_KEY")(make_images(1), PROMPTS)
    assert "schl" not in str(caught.value)
    assert service.counts()["requests"] == 0


LITERALS = ["sk-proj-abc123", "hf_aBcDeFgHiJkLmNoPqRsT", "AIzaSyD-9tSrke72PouQMnMX", "AKIAIOSFODNN7EXAMPLE", "a b", "",
            "0123456789abcdef", "eyJhbGciOi.eyJzdWIiOi.SflKxw", "r8_dG9rZW4"]  # fmt: skip


@pytest.mark.parametrize("literal", LITERALS)
def test_a_key_in_place_of_a_name_is_refused_and_not_shown(literal):
    with pytest.raises(ValueError, match="expected such a name") as caught:
        HTTPScorer("https://host/x", Own(), key=literal)
    assert not literal.strip() or literal not in str(caught.value)
    scorer = HTTPScorer("https://host/x", Own())
    with pytest.raises(ValueError, match="expected such a name"):
        scorer.set_params(key=literal)
    assert scorer.key is None


@pytest.mark.parametrize("key", [partial(str, SECRET), SECRET.encode(), 7, type("Vault", (), {"__call__": read_key})()])
def test_a_key_is_no_object_that_would_be_stored(key):
    with pytest.raises(TypeError, match="expected the name of an environment variable, a function") as caught:
        HTTPScorer("https://host/x", Own(), key=key)
    assert "kaboom" not in str(caught.value)


def test_names_of_variables_are_taken(monkeypatch):
    monkeypatch.setenv("my_lower_key", "x")
    for name in ("KEY", "HF_TOKEN", "GOOGLE_CLOUD_VISION_API_KEY_2", "my_lower_key"):
        assert HTTPScorer("https://host/x", Own(), key=name).key == name


@pytest.mark.parametrize(
    "url", ["https://user:kaboom@host/x", "https://host/x?api_key=kaboom", "https://host/x?access_token=kaboom&v=1"]
)
def test_a_secret_in_the_url_is_refused(url):
    with pytest.raises(ValueError, match="There seems to be a secret in") as caught:
        HTTPScorer(url, Own())(make_images(1), PROMPTS)
    assert "kaboom" not in str(caught.value)


def test_a_query_without_a_secret_is_sent(service):
    service.control()
    scorer_of(service, path="/own?model=a&monkey=b")(make_images(1), PROMPTS)
    assert service.counts()["images"] == 1


def test_no_key_without_encryption():
    with pytest.raises(ValueError, match="sent to host.example without encryption"):
        HTTPScorer("http://host.example/x", Own(), key="A_KEY")(make_images(1), PROMPTS)


def test_parts_and_encodings_of_a_secret_are_redacted():
    text = f"{SECRET} Bearer {SECRET} kaboom%2FSecret%2B5f3a9b a2Fib29tL1NlY3JldCs1ZjNhOWI= AKIAXXXXXX:abcdefgh"
    redacted = without_secrets(text, [SECRET, "AKIAXXXXXX:abcdefgh"])
    assert redacted == "*** Bearer *** *** *** ***"
    assert without_secrets("nothing here", [SECRET, ""]) == "nothing here"


def test_redirects_on_the_same_host_are_followed(service):
    images = make_images(1)
    service.control(key=SECRET, script=["redirect", "redirect"])
    assert np.array_equal(scorer_of(service, key="A_KEY")(images, PROMPTS), stripe_scores(images, 3))
    service.control(rates={"redirect": 1})
    with pytest.raises(ServiceError, match="redirected the request more than 3 times"):
        scorer_of(service)(images, PROMPTS)


@pytest.mark.parametrize("other", ["http://localhost:{port}/own", "http://127.0.0.1:1/own", "https://127.0.0.1:{port}/",
                                   "//127.0.0.2:{port}/own", "http://127.0.0.1:{port}@host.example/own"])  # fmt: skip
def test_redirects_elsewhere_are_not(service, other):
    target = other.format(port=service.url.rsplit(":", 1)[1])
    service.control(script=[f"redirect {target}"])
    with pytest.raises(ServiceError, match="images and keys are only sent to the given url"):
        scorer_of(service, key="A_KEY")(make_images(1), PROMPTS)
    assert service.counts()["requests"] == 1


class Fixed(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        body = b"[0.25, 0.5, 0.25]"
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory):
    """An https service with a certificate that it has signed itself, and the certificate's path."""
    folder = tmp_path_factory.mktemp("tls")
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    make += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"]
    try:
        subprocess.run(make, cwd=folder, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl, which makes the certificate, is not installed")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Fixed)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"https://localhost:{server.server_port}", str(folder / "cert.pem")
    server.shutdown()
    thread.join()
    server.server_close()


def test_certificates_are_verified(encrypted):
    url, certificate = encrypted
    adapter = TorchServe("m", fixed_labels=False)
    with pytest.raises(ServiceError, match="has a certificate that this machine does not trust") as caught:
        HTTPScorer(url, adapter)(make_images(1), PROMPTS)
    assert not caught.value.retry
    scores = HTTPScorer(url, adapter, verify=certificate)(make_images(1), PROMPTS)
    assert scores.tolist() == [[0.25, 0.5, 0.25]]
    assert HTTPScorer(url, adapter, verify=False)(make_images(1), PROMPTS).shape == (1, 3)  # on this machine


def test_verification_is_not_given_up_for_another_machine():
    with pytest.raises(ValueError, match="verify=False would send images and keys to anyone who answers"):
        HTTPScorer("https://host.example/x", Own(), verify=False)(make_images(1), PROMPTS)


def test_a_proxy_of_the_environment_is_used_but_not_for_this_machine(service, monkeypatch):
    service.control()
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, service.url)  # a proxy is asked for whole addresses
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    HTTPScorer("http://host.example/own", Own())(make_images(1), PROMPTS)
    assert service.counts()["seen"]["headers"]["host"] == "host.example"
    scorer_of(service)(make_images(1), PROMPTS)
    assert service.counts()["seen"]["headers"]["host"] == service.url.removeprefix("http://")


def test_without_httpx_the_package_works_and_names_what_is_missing(programs):
    code = (
        "import sys, blackvip; print('httpx' in sys.modules); sys.modules['httpx'] = None; import blackvip.scorers.http"
    )
    run = programs.run("-c", code)
    assert run.stdout.strip() == "False"
    assert "Services over HTTP need the package httpx" in run.stderr
    assert "blackvip[http]" in run.stderr


def test_pickles_hold_no_client(service):
    scorer = scorer_of(service, key="A_KEY")
    scorer(make_images(1), PROMPTS)
    buffer = io.BytesIO()
    pickle.dump(scorer, buffer)
    assert len(buffer.getvalue()) < 1500
