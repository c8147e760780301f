"""Tests of the client with failing servers: retries, pauses and messages."""

import email.utils
import io
import threading
import time

import pytest

from scotd_jax import config as c
from scotd_jax.errors import InputError
from scotd_jax.jobs.generation.servers import client
from scotd_jax.jobs.generation.servers.client import RequestError, ServerClient
from scotd_jax.jobs.generation.servers.requests import keyed_seed, request_body
from tests.helpers.fake_server import completion, error, serving

BODY = {"model": "m", "prompt": "Q"}
SECRET = "sk-very-secret"


def endpoint(url: str, pause: float = 0.002, **fields) -> ServerClient:
    """Returns a client whose first pause lasts about `pause` seconds; `fields` are those of c.Server."""
    return ServerClient(c.Server(url=url, model="m", **{"timeout": 5.0, "retries": 3} | fields), "config.x", pause)


def send(script, **fields):
    """Posts once and returns the reply and the server."""
    with serving(script) as fake:
        return endpoint(fake.url, **fields).post(BODY, "q#0"), fake


def refused(script, **fields):
    """Posts once and returns the error and the server."""
    with serving(script) as fake, pytest.raises(RequestError) as caught:
        endpoint(fake.url, **fields).post(BODY, "q#0")
    return caught.value, fake


@pytest.mark.parametrize(
    "fault",
    [
        error(500),
        error(502),
        error(503),
        error(408),
        error(429),
        "close",
        "cut",
        (200, {}, b'{"choices": [{"te'),
        (200, {}, b"<html>busy</html>"),
        (200, {}, b"\xff\xfe"),
        (200, {}, b"[]"),
        (200, {}, b'{"error": "overloaded"}'),
    ],
    ids=str,
)
def test_transient_failures_are_retried(fault):
    answer, fake = send(lambda number, body: fault if number < 2 else None)
    assert answer["choices"][0]["text"].endswith("(a)")
    assert len(fake.bodies) == 3
    assert fake.bodies == [BODY] * 3, "the same request"


def test_silent_server_is_abandoned_after_the_timeout():
    def script(number, body):
        if number == 0:
            time.sleep(1.2)

    answer, fake = send(script, timeout=0.6)
    assert answer["choices"]
    assert len(fake.bodies) >= 2


def test_retries_are_limited():
    fault, fake = refused(lambda number, body: (200, {}, b'{"choi'), retries=2)
    assert len(fake.bodies) == 3
    assert fault.outage
    assert "the reply is not JSON" in str(fault)
    assert "(sent 3 times)" in str(fault)
    assert fake.url in str(fault)


@pytest.mark.parametrize(("status", "fatal"), [(400, False), (401, True), (404, True), (413, False), (307, True)])
def test_permanent_failures_are_not_retried(status, fatal):
    fault, fake = refused(lambda number, body: error(status, "prompt too long", Location="http://127.0.0.1:1/"))
    assert len(fake.bodies) == 1
    assert (fault.fatal, fault.outage) == (fatal, False)
    assert f"{fake.url}/completions: status {status}" in str(fault)
    assert "prompt too long" in str(fault)


def test_refused_connection_is_an_outage():
    with serving() as fake:
        url = fake.url
    with pytest.raises(InputError, match=f"{url}/completions: ConnectionRefusedError.*sent 2 times"):
        endpoint(url, retries=1).post(BODY, "q")


@pytest.mark.slow
@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_holds_all_requests(status):
    with serving(lambda number, body: error(status, Retry_After="1") if number == 0 else None) as fake:
        client = endpoint(fake.url)
        first = threading.Thread(target=client.post, args=(BODY, "q#0"))
        first.start()
        while not fake.bodies:
            time.sleep(0.005)
        time.sleep(0.3)  # until the first request has its reply
        client.post(BODY, "another#0")
        first.join()
    assert len(fake.bodies) == 3
    assert min(fake.times[1:]) - fake.times[0] >= 0.95


@pytest.mark.slow
def test_retry_after_may_be_a_date_or_invalid():
    def script(number, body):  # dates have whole seconds: this one is 1 to 2 seconds ahead
        date = email.utils.formatdate(time.time() + 2, usegmt=True)
        return error(429, Retry_After=date) if number == 0 else None

    _, fake = send(script)
    assert fake.times[1] - fake.times[0] > 0.9
    for value in ("soon", "-3", "nan", "1e9"):
        _, fake = send(lambda number, body, value=value: error(429, Retry_After=value) if number == 0 else None)
        assert fake.times[1] - fake.times[0] < 60


def test_pauses_grow_and_depend_on_the_request_name_only(monkeypatch):
    def pauses(name):
        with serving(lambda number, body: error(500)) as fake:
            client, waited = endpoint(fake.url, pause=1.0, retries=9), []
            monkeypatch.setattr(client, "_wait", waited.append)
            with pytest.raises(RequestError):
                client.post(BODY, name)
        return [seconds for seconds in waited if seconds]

    found = pauses("q#0")
    assert all(0.5 * min(60, 2**k) <= seconds <= min(60, 2**k) for k, seconds in enumerate(found))
    assert len(found) == 9
    assert pauses("q#0") == found != pauses("q#1")


def test_stop_ends_pauses():
    with serving(lambda number, body: error(500)) as fake:
        client = endpoint(fake.url, pause=50.0)
        threading.Timer(0.1, client.stop).start()
        begun = time.monotonic()
        with pytest.raises(RequestError, match="abandoned"):
            client.post(BODY, "q")
        assert time.monotonic() - begun < 5


def test_key_is_sent_and_never_printed(monkeypatch):
    monkeypatch.setenv("MY_KEY", f" {SECRET}\n")
    for status in (401, 500):
        fault, fake = refused(
            lambda number, body, status=status: error(status, f"Bearer {SECRET} is no good"),
            key_env="MY_KEY",
            retries=0,
        )
        assert fake.keys == [f"Bearer {SECRET}"]
        assert SECRET not in str(fault)
        assert "[key]" in str(fault)
    fault, _ = refused(lambda number, body: (200, {}, SECRET.encode()), key_env="MY_KEY", retries=0)
    assert SECRET not in str(fault)
    fault, fake = refused(lambda number, body: error(302, Location="http://127.0.0.1:1/"), key_env="MY_KEY")
    assert fault.fatal, "a redirect would take the key elsewhere"


def test_key_is_removed_before_a_message_is_cut_and_from_what_the_server_echoes(monkeypatch):
    monkeypatch.setenv("MY_KEY", SECRET)
    for status, length in ((400, 296), (200, 98)):  # messages quote 300 and 100 characters
        reply = status, {}, b"x" * length + SECRET.encode()
        with serving() as fake:
            fake.script = lambda number, body, reply=reply: reply
            with pytest.raises(RequestError) as caught:
                endpoint(fake.url, key_env="MY_KEY", retries=0).post(BODY, "q#0")
        assert "x" in str(caught.value)
        assert SECRET[:4] not in str(caught.value)
    with serving(lambda number, body: (200, {}, completion(body, text=f"Your key is {SECRET}"))) as fake:
        reply = endpoint(fake.url, key_env="MY_KEY").post({}, "r")
    assert reply["choices"][0]["text"] == "Your key is [key]"


def test_replies_are_bounded_in_size_and_time(monkeypatch):
    monkeypatch.setattr(client, "MAX_REPLY_BYTES", 2**20)
    fault, fake = refused(lambda number, body: (200, {}, b" " * (2**20 + 1)), retries=2)
    assert "the reply has more than 1 MiB" in str(fault)
    assert len(fake.bodies) == 1, "not retried"

    class Dripping(io.BytesIO):
        def read1(self, size: int = -1) -> bytes:
            time.sleep(0.02)
            return b" "

    with pytest.raises(client._RetryableError, match="the reply has not ended 0.1 s after it began"):
        endpoint("http://localhost/v1", timeout=0.1)._read(Dripping())


def test_missing_or_invalid_key_is_refused(monkeypatch):
    monkeypatch.delenv("MY_KEY", raising=False)
    with pytest.raises(InputError, match="config.x.key_env: the environment variable MY_KEY is not set"):
        endpoint("http://localhost/v1", key_env="MY_KEY")
    monkeypatch.setenv("MY_KEY", f"{SECRET}\nX-Other: 1")
    with pytest.raises(InputError) as caught:
        endpoint("http://localhost/v1", key_env="MY_KEY")
    assert SECRET not in str(caught.value)


def test_request_bodies():
    sampling = c.Sampling(n=30, temperature=0.7, top_p=0.9, max_new_tokens=48)
    server = c.Server(model="m", extra_body={"seed": None, "logprobs": 1})
    assert request_body(server, sampling, "Q: x\nA: ", ("\n\n",), 30, 5) == {
        "model": "m",
        "prompt": "Q: x\nA: ",
        "max_tokens": 48,
        "temperature": 0.7,
        "top_p": 0.9,
        "n": 30,
        "stop": ["\n\n"],
        "logprobs": 1,
    }
    one = request_body(c.Server(model="m"), c.Sampling(top_k=5), [{"role": "user", "content": "x"}], (), 1, 5)
    assert one["top_k"] == 5
    assert one["seed"] == 5
    assert not {"n", "stop", "prompt"} & one.keys()


def test_request_seeds_depend_on_seed_question_and_sample():
    assert keyed_seed(1, "q", 0) == keyed_seed(1, "q", 0)
    assert len({keyed_seed(s, q, i) for s in range(5) for q in ("a", "b", "1") for i in range(200)}) == 3000
    assert all(0 <= keyed_seed(0, "q", i) < 2**31 for i in range(1000))
