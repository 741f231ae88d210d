"""Messages to bytes and back; streams in any pieces; any bytes at all."""

from __future__ import annotations

from importlib import import_module
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.doip.messages import (
    HEADER_BYTES,
    V2012,
    V2019,
    ActivationRequest,
    ActivationResponse,
    AliveCheckRequest,
    AliveCheckResponse,
    Diagnostic,
    DiagnosticAck,
    DiagnosticNack,
    EntityStatus,
    EntityStatusRequest,
    HeaderNack,
    HeaderNackCode,
    IdentificationRequest,
    MalformedError,
    Message,
    PayloadType,
    PowerMode,
    PowerModeRequest,
    VehicleIdentity,
    decode,
    encode,
    frame,
)
from gateway.doip.stream import Header, Received, Refused, StreamParser

foreign: Any = import_module("doipclient.messages")  # it has no types

u8, u16 = st.integers(0, 0xFF), st.integers(0, 0xFFFF)
oem = st.none() | st.binary(min_size=4, max_size=4)
rest = st.binary(max_size=40)
any_message: st.SearchStrategy[Message] = st.one_of(
    st.builds(HeaderNack, u8),
    st.just(IdentificationRequest()),
    st.builds(IdentificationRequest, eid=st.binary(min_size=6, max_size=6)),
    st.builds(IdentificationRequest, vin=st.binary(min_size=17, max_size=17)),
    st.builds(
        VehicleIdentity,
        vin=st.binary(min_size=17, max_size=17),
        logical_address=u16,
        eid=st.binary(min_size=6, max_size=6),
        gid=st.binary(min_size=6, max_size=6),
        further_action=u8,
        sync_status=st.none() | u8,
    ),
    st.builds(ActivationRequest, u16, u8, oem),
    st.builds(ActivationResponse, u16, u16, u8, oem),
    st.just(AliveCheckRequest()),
    st.builds(AliveCheckResponse, u16),
    st.just(EntityStatusRequest()),
    st.builds(EntityStatus, u8, u8, u8, st.none() | st.integers(0, 2**32 - 1)),
    st.just(PowerModeRequest()),
    st.builds(PowerMode, u8),
    st.builds(Diagnostic, u16, u16, st.binary(min_size=1, max_size=40)),
    st.builds(DiagnosticAck, u16, u16, u8, rest),
    st.builds(DiagnosticNack, u16, u16, u8, rest),
)


def allow_all(_header: Header) -> None:
    return None


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    marks = sorted({min(c, len(data)) for c in cuts} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(marks)]


@given(st.lists(st.tuples(any_message, st.sampled_from((V2012, V2019))), max_size=5), st.lists(st.integers(0, 300)))
def test_messages_survive_the_wire_in_any_pieces(sent: list[tuple[Message, int]], cuts: list[int]) -> None:
    parser = StreamParser(allow_all)
    stream = b"".join(encode(m, v) for m, v in sent)
    got = [event for piece in pieces(stream, cuts) for event in parser.feed(piece)]
    assert got == [Received(v, m) for m, v in sent]
    assert parser.buffered == 0


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=8))
def test_any_bytes_in_any_pieces_give_the_same_events_and_never_an_error(data: bytes, cuts: list[int]) -> None:
    whole, cut = StreamParser(allow_all), StreamParser(allow_all)
    assert list(whole.feed(data)) == [event for piece in pieces(data, cuts) for event in cut.feed(piece)]
    assert whole.buffered == cut.buffered


@given(
    st.lists(
        st.tuples(st.sampled_from([*PayloadType, 0x1234, 0x9000]), st.integers(0, 60), st.binary(max_size=60)),
        max_size=6,
    ),
    st.lists(st.integers(0, 300), max_size=8),
)
def test_plausible_headers_with_wrong_lengths_never_raise_and_never_exceed_the_limit(
    parts: list[tuple[int, int, bytes]], cuts: list[int]
) -> None:
    limit = 32

    def judge(header: Header) -> HeaderNackCode | None:
        return HeaderNackCode.TOO_LARGE if header.length > limit else None

    parser = StreamParser(judge)
    stream = b"".join(frame(kind, b"", V2019)[:4] + length.to_bytes(4, "big") + body for kind, length, body in parts)
    for piece in pieces(stream, cuts):
        for event in parser.feed(piece):
            if isinstance(event, Received):
                assert decode(*_type_and_payload(event.message)) == event.message
        assert parser.buffered <= max(limit, HEADER_BYTES)


def _type_and_payload(message: Message) -> tuple[int, bytes]:
    data = encode(message)
    return int.from_bytes(data[2:4], "big"), data[8:]


@given(u16, st.binary(max_size=50))
def test_any_payload_is_a_message_or_malformed(kind: int, payload: bytes) -> None:
    try:
        message = decode(kind, payload)
    except MalformedError:
        return
    assert _type_and_payload(message)[0] == kind


def refused(data: bytes) -> Refused:
    (event,) = StreamParser(lambda h: HeaderNackCode.TOO_LARGE if h.length > 100 else None).feed(data)
    assert isinstance(event, Refused)
    return event


@pytest.mark.parametrize(
    ("header", "code", "is_fatal"),
    [
        ("02fc000700000000", 0x00, True),  # wrong inverse
        ("04fb000700000000", 0x00, True),  # a version we do not speak
        ("ff00000700000000", 0x00, True),  # 0xFF is for identification requests only
        ("474554202f204854", 0x00, True),  # a web browser
        ("02fd123400000000", 0x01, False),
        ("02fd800100000065", 0x02, False),
        ("03fc0005ffffffff", 0x02, False),
        ("03fc000500000008", 0x04, True),
        ("02fd800100000004", 0x04, True),  # addresses and nothing to deliver
        ("02fd000800000003", 0x04, True),
    ],
)
def test_headers_are_refused_as_the_standard_says(header: str, code: int, is_fatal: bool) -> None:
    event = refused(bytes.fromhex(header))
    assert (event.code, event.is_fatal) == (code, is_fatal)


def test_a_refused_payload_is_skipped_and_the_next_message_understood() -> None:
    parser = StreamParser(lambda h: HeaderNackCode.TOO_LARGE if h.length > 100 else None)
    big = frame(PayloadType.DIAGNOSTIC, bytes(5000))
    events = [
        e for piece in (big[:20], big[20:3000], big[3000:] + encode(AliveCheckRequest())) for e in parser.feed(piece)
    ]
    assert [type(e) for e in events] == [Refused, Received]
    assert parser.buffered == 0


def test_after_a_fatal_header_nothing_is_understood_or_kept() -> None:
    parser = StreamParser(allow_all)
    assert len(list(parser.feed(bytes(8) + encode(AliveCheckRequest()) * 50))) == 1
    assert list(parser.feed(encode(AliveCheckRequest()))) == []
    assert (parser.is_dead, parser.buffered) == (True, 0)


def test_a_foreign_library_writes_and_reads_the_same_bytes() -> None:
    ours: list[tuple[Message, Any]] = [
        (ActivationRequest(0xE00, 1), foreign.RoutingActivationRequest(0xE00, 1)),
        (ActivationRequest(0xE00, 0, b"\0\0\0\7"), foreign.RoutingActivationRequest(0xE00, 0, vm_specific=7)),
        (ActivationResponse(0xE00, 0x1001, 0x10), foreign.RoutingActivationResponse(0xE00, 0x1001, 0x10)),
        (Diagnostic(0xE00, 0x1010, b"\x3e\0"), foreign.DiagnosticMessage(0xE00, 0x1010, b"\x3e\0")),
        (DiagnosticAck(0x1010, 0xE00), foreign.DiagnosticMessagePositiveAcknowledgement(0x1010, 0xE00, 0)),
        (DiagnosticNack(0x1010, 0xE00, 3), foreign.DiagnosticMessageNegativeAcknowledgement(0x1010, 0xE00, 3)),
        (EntityStatus(0, 8, 1, 4096), foreign.EntityStatusResponse(0, 8, 1, 4096)),
        (PowerMode(1), foreign.DiagnosticPowerModeResponse(1)),
        (
            VehicleIdentity(vin=b"1" * 17, logical_address=0x1001, eid=b"123456", gid=b"654321"),
            foreign.VehicleIdentificationResponse("1" * 17, 0x1001, b"123456", b"654321", 0, 0),
        ),
    ]
    for mine, theirs in ours:
        assert encode(mine)[8:] == theirs.pack()
        kind = foreign.payload_message_to_type[type(theirs)]
        assert encode(mine)[2:4] == kind.to_bytes(2, "big")
        assert decode(kind, theirs.pack()) == mine
