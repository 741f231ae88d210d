"""Whatever is sent, an ECU answers well formed, lives on, and can be brought back."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.ecu.description import ecu_names, load_description
from tests.simulator.ecu.support import Bench
from tests.support import LONG

SIDS = sorted({s.sid for name in ecu_names() for s in load_description(name).services})
WITH_SUBFUNCTIONS = {sid for sid, s in Bench("gearbox").server.services.items() if s.subfunctions() is not None}


def requests() -> st.SearchStrategy[bytes]:
    """Arbitrary bytes, and more often those that begin like something known."""
    known = st.tuples(st.sampled_from(SIDS), st.binary(max_size=24)).map(lambda two: bytes([two[0]]) + two[1])
    session = st.sampled_from([b"\x10\x01", b"\x10\x02", b"\x10\x03", b"\x10\x04", b"\x27\x01", b"\x3e\x80"])
    identifier = st.tuples(
        st.sampled_from([0x22, 0x2E, 0x2F, 0x31]),
        st.sampled_from([0x0100, 0x0200, 0x0210, 0x0300, 0xF190, 0xF198, 0xFF00]),
        st.binary(max_size=12),
    ).map(lambda three: bytes([three[0]]) + three[1].to_bytes(2, "big") + three[2])
    return st.one_of(st.binary(max_size=80), known, identifier, session)


def well_formed(request: bytes, pdu: bytes) -> bool:
    """An answer to this request, or a message of a service that sends by itself."""
    if pdu[0] == 0x7F:
        return len(pdu) == 3
    return pdu[0] & 0x40 != 0


@pytest.mark.parametrize("ecu", ecu_names())
@settings(max_examples=2000 if LONG else 40, deadline=None)
@given(st.lists(st.tuples(requests(), st.booleans(), st.sampled_from([0.0, 0.0, 0.01, 0.3, 6.0])), max_size=12))
def test_anything_is_survived(ecu: str, exchange: list[tuple[bytes, bool, float]]) -> None:
    bench = Bench(ecu)
    for request, functional, pause_s in exchange:
        for answer in bench.server.receive(request, functional=functional, now_s=bench.now_s):
            assert answer.uudt or well_formed(request, answer.pdu), answer.pdu.hex()
        end_s = bench.now_s + pause_s
        while bench.now_s < end_s:
            bench.now_s = min(end_s, bench.now_s + 0.1)
            assert all(a.uudt or well_formed(b"", a.pdu) for a in bench.server.poll(bench.now_s))
    bench.server.power_off(bench.now_s)
    bench.server.power_on(bench.now_s)
    bench.advance(10.0)
    assert bench.one("22 F1 90").startswith("62 F1 90")


@pytest.mark.parametrize("ecu", ecu_names())
@settings(max_examples=500 if LONG else 40, deadline=None)
@given(st.lists(requests(), max_size=8))
def test_functional_requests_never_get_the_five_unsent_answers(ecu: str, some: list[bytes]) -> None:
    bench = Bench(ecu)
    for request in some:
        for answer in bench.server.receive(request, functional=True, now_s=bench.now_s):
            if answer.pdu[0] == 0x7F:
                assert answer.pdu[2] not in (0x11, 0x12, 0x31, 0x7E, 0x7F)


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(sorted(WITH_SUBFUNCTIONS)), st.integers(0, 0x7F), st.binary(max_size=6))
def test_the_suppress_bit_changes_no_negative_answer(sid: int, sub: int, rest: bytes) -> None:
    plain, suppressed = Bench("gearbox"), Bench("gearbox")
    first = plain.ask(bytes([sid, sub]) + rest)
    second = suppressed.ask(bytes([sid, sub | 0x80]) + rest)
    assert second == [answer for answer in first if answer.startswith("7F")]
