"""Whatever the other side answers: a batch is given up only for an acknowledgement that names it."""

from __future__ import annotations

import gzip
import time
from pathlib import Path

import msgspec
import pytest

from gateway.errors import GatewayError, PeerError, TransportError
from gateway.link.client import Refusal, RefusedError, classify
from gateway.link.identity import Identity, make_key_request
from gateway.wire.api import BATCHES, BatchAck, CheckInReply, EnrolReply
from tests.chain.roadside import LinkedVehicle, until
from tests.cloud.support import make_pki
from tests.gateway.link.answers import http, lying

pytestmark = pytest.mark.anyio
JSON = "Content-Type: application/json"
DAY_NS = 86_400_000_000_000


def enrolled(directory: Path) -> None:
    """An identity that nobody asks for over plain HTTP."""
    authority = make_pki(directory)
    request = make_key_request("VIN1")
    issued = authority.issue_vehicle(request.csr_pem, "VIN1", now_ns=time.time_ns(), life_ns=DAY_NS)
    Identity(directory / "identity").store("VIN1", request, EnrolReply(issued.pem, authority.pem, "http://127.0.0.1:1"))


def acknowledge(head: str, _: bytes, *, plus: int = 0, stream: str = "") -> bytes:
    """What a cloud answers, or something close to it."""
    told = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
    ack = BatchAck(stream or told["outrider-stream"], int(told["outrider-sequence"]) + plus, 1)
    return http("200 OK", msgspec.json.encode(ack), JSON)


LIES = {
    "another sequence": lambda head, body: acknowledge(head, body, plus=1),
    "another stream": lambda head, body: acknowledge(head, body, stream="0000000000000000/normal"),
    "no stream": lambda head, body: http("200 OK", b'{"stream":"","sequence":0,"contiguous":0}', JSON),
    "a login page": lambda head, body: http("200 OK", b"<html>please log in</html>", "Content-Type: text/html"),
    "garbage": lambda head, body: http("200 OK", b"\xff\xfe\x00[[[", JSON),
    "nothing": lambda head, body: http("200 OK"),
    "no content": lambda head, body: http("204 No Content"),
    "deep nesting": lambda head, body: http("200 OK", b"[" * 100_000, JSON),
    "a giant body": lambda head, body: http("200 OK", b" " * (5 * 1024 * 1024), JSON),
    "a packed body": lambda head, body: http("200 OK", gzip.compress(b" " * 50_000_000), "Content-Encoding: gzip"),
    "a redirect": lambda head, body: http("307 Temporary Redirect", b"", f"Location: {BATCHES}"),
    "a bad request": lambda head, body: http("400 Bad Request", b'{"detail":"no"}', JSON),
    "not found": lambda head, body: http("404 Not Found", b"<html>", "Content-Type: text/html"),
    "an unknown status": lambda head, body: http("299 Fine"),
    "no HTTP": lambda head, body: b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "half an answer": lambda head, body: b'HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX: "',
}


@pytest.mark.parametrize("lie", LIES)
async def test_answer_that_is_no_acknowledgement_keeps_the_batch_and_the_truth_delivers_it(
    lie: str, tmp_path: Path
) -> None:
    enrolled(tmp_path)
    async with lying(LIES[lie]) as liar:
        vehicle = LinkedVehicle(tmp_path, url=liar.url, timeout_s=0.3, parts=("uplink",))
        async with vehicle.running():
            await vehicle.store("normal", 3)
            await until("a complaint", lambda: vehicle.says("uplink").startswith("degraded"))
            assert await vehicle.pending() == 36
            liar.answer = acknowledge
            vehicle.queue.retry_parked()
            await vehicle.store("critical", 1)
            await until("delivery of what is new", lambda: sent(liar.requests, "critical"))

            async def all_of_it() -> bool:
                """A lie still under way may park its batch once more; do not wait for the parking to end."""
                vehicle.queue.retry_parked()
                vehicle.desk.wake()
                return await vehicle.is_empty()

            await until("delivery of everything", all_of_it)
            assert all(BATCHES in head.split("\r\n")[0] for head in liar.requests)


def sent(heads: list[str], stream: str) -> bool:
    return any(f"/{stream}\r\n" in head for head in heads)


async def test_batch_with_a_strange_answer_lets_the_others_pass(tmp_path: Path) -> None:
    enrolled(tmp_path)

    def poisoned(head: str, body: bytes) -> bytes:
        return http("400 Bad Request") if "outrider-sequence: 2\r\n" in head.lower() else acknowledge(head, body)

    async with (
        lying(poisoned) as liar,
        LinkedVehicle(tmp_path, url=liar.url, parts=("uplink",)).running() as vehicle,
    ):
        await vehicle.store("normal", 30)
        await until("the others", lambda: len({h for h in liar.requests if "sequence: " in h.lower()}) >= 30)
        await until("their acknowledgement", lambda: vehicle.queue.parked == 1 and not vehicle.queue.under_way)
        tries = sum("outrider-sequence: 2\r\n" in head.lower() for head in liar.requests)
        assert tries == 1
        assert "400" in vehicle.says("uplink")


async def test_retry_after_is_honoured_and_a_later_failure_does_not_cut_it_short(tmp_path: Path) -> None:
    enrolled(tmp_path)
    busy = http("503 Service Unavailable", b'{"detail":"too many uploads wait"}', "Retry-After: 300", JSON)
    async with (
        lying(lambda head, body: busy) as liar,
        LinkedVehicle(tmp_path, url=liar.url, window=4, parts=("uplink",)).running() as vehicle,
    ):
        await vehicle.store("normal", 8)
        await until("a complaint", lambda: "too many uploads wait" in vehicle.says("uplink"))
        await until("quiet", lambda: vehicle.queue.under_way == 0)
        count = len(liar.requests)
        assert count <= 4
        for _ in range(5):
            await vehicle.store("critical", 1)
        assert len(liar.requests) == count


async def test_check_in_waits_as_long_as_the_cloud_asks(tmp_path: Path) -> None:
    enrolled(tmp_path)
    busy = http("429 Too Many Requests", b"", "Retry-After: 300")
    async with lying(lambda head, body: busy) as liar:
        vehicle = LinkedVehicle(tmp_path, url=liar.url, check_in_s=0.01, parts=("check-in",))
        async with vehicle.running():
            await until("a complaint", lambda: "429" in vehicle.says("check-in"))
            for _ in range(10):
                await vehicle.store("normal", 1)
            assert len(liar.requests) == 1


async def test_period_the_cloud_sets_must_make_sense(tmp_path: Path) -> None:
    enrolled(tmp_path)
    vehicle = LinkedVehicle(tmp_path, parts=())
    try:
        for period_s, taken in ((-1, None), (0, None), (1e-9, None), (30, 30.0), (1e12, 30.0), (None, None)):
            raw = msgspec.json.encode({"now_ns": 10**30 if period_s == 30 else 1, "check_in_s": period_s})
            await vehicle.wishes.fulfil(msgspec.json.decode(raw, type=CheckInReply))
            assert vehicle.wishes.check_in_s == taken
    finally:
        await vehicle.close()


async def test_nobody_there_and_a_server_that_never_answers_are_transport_failures(tmp_path: Path) -> None:
    enrolled(tmp_path)
    async with lying(lambda head, body: b"") as liar:
        vehicle = LinkedVehicle(tmp_path, url=liar.url, timeout_s=0.2, parts=())
        with pytest.raises(TransportError):
            await vehicle.client.send_batch(b"x", stream="a/b", sequence=1, items=1)
        await vehicle.close()
    vehicle = LinkedVehicle(tmp_path, url="http://127.0.0.1:1", timeout_s=0.2, parts=())
    with pytest.raises(TransportError):
        await vehicle.client.send_batch(b"x", stream="a/b", sequence=1, items=1)
    await vehicle.close()


async def test_answer_that_trickles_for_ever_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each read makes progress, so that only a limit on the whole request ends it."""
    monkeypatch.setattr("gateway.link.client.WHOLE_REQUEST_TIMEOUTS", 1)
    enrolled(tmp_path)
    async with lying(lambda head, body: b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n  ") as liar:
        vehicle = LinkedVehicle(tmp_path, url=liar.url, timeout_s=0.2, parts=())
        with pytest.raises(TransportError):
            await vehicle.client.send_batch(b"x", stream="a/b", sequence=1, items=1)
        await vehicle.close()


@pytest.mark.parametrize(
    ("status", "refusal"),
    [
        (401, Refusal.IDENTITY),
        (403, Refusal.IDENTITY),
        (413, Refusal.TOO_LARGE),
        (408, Refusal.LATER),
        (429, Refusal.LATER),
        (500, Refusal.LATER),
        (503, Refusal.LATER),
        (301, Refusal.OTHER),
        (400, Refusal.OTHER),
        (404, Refusal.OTHER),
        (799, Refusal.LATER),
    ],
)
def test_status_says_what_helps(status: int, refusal: Refusal) -> None:
    assert classify(status, "", b"").refusal is refusal


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7), ("0.5", 0.5), ("", 0), ("-3", 0), ("nan", 0), ("1e9", 3600), ("inf", 3600), ("Wed, 21 Oct 2015", 0)],
)
def test_retry_after_is_bounded(header: str, seconds: float) -> None:
    assert classify(503, header, b"").retry_after_s == seconds


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b'{"detail":5}', b'{"detail":null}', b"\xff", b"[" * 50_000])
def test_any_body_of_a_refusal_is_survived(body: bytes) -> None:
    error = classify(503, "", body)
    assert isinstance(error, RefusedError)
    assert isinstance(error, GatewayError)
    assert not isinstance(error, PeerError)
    assert len(str(error)) < 400
