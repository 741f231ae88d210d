"""Differential tests: can-isotp at the other end, in both directions and all formats; it was not written by us."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import isotp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.isotp.model import Address, Addressing, Settings, fixed
from tests.gateway.isotp.harness import EXTENDED, FIXED, MIXED, MIXED_29, NORMAL, Node
from tests.support import LONG

EXAMPLES = 5000 if LONG else 100
MAX_BYTES = 20_000
MODE = isotp.AddressingMode

EXTENDED_29 = Address(
    tx_id=0x18DA50F1, rx_id=0x18DAF150, extended_id=True, addressing=Addressing.EXTENDED, tx_extension=0x29,
    rx_extension=0xF1,
)  # fmt: skip
NORMAL_29 = Address(tx_id=0x1ABCDEF0, rx_id=0x1ABCDEF1, extended_id=True)
# Our address, and the same conversation as the other side names it.
PAIRS: dict[str, tuple[Address, dict[str, Any]]] = {
    "normal": (NORMAL, {"addressing_mode": MODE.Normal_11bits, "txid": 0x7E8, "rxid": 0x7E0}),
    "normal_29": (NORMAL_29, {"addressing_mode": MODE.Normal_29bits, "txid": 0x1ABCDEF1, "rxid": 0x1ABCDEF0}),
    "fixed": (FIXED, {"addressing_mode": MODE.NormalFixed_29bits, "target_address": 0xF1, "source_address": 0x50}),
    "extended": (
        EXTENDED,
        {"addressing_mode": MODE.Extended_11bits, "txid": 0x629, "rxid": 0x6F1, "target_address": 0xF1,
         "source_address": 0x29},
    ),
    "extended_29": (
        EXTENDED_29,
        {"addressing_mode": MODE.Extended_29bits, "txid": 0x18DAF150, "rxid": 0x18DA50F1, "target_address": 0xF1,
         "source_address": 0x29},
    ),
    "mixed": (
        MIXED,
        {"addressing_mode": MODE.Mixed_11bits, "txid": 0x7E8, "rxid": 0x7E0, "address_extension": 0x99},
    ),
    "mixed_29": (
        MIXED_29,
        {"addressing_mode": MODE.Mixed_29bits, "target_address": 0xF1, "source_address": 0x50,
         "address_extension": 0x99},
    ),
}  # fmt: skip


class Theirs:
    """can-isotp's state machine without its threads."""

    def __init__(self, pair: str, **params: Any) -> None:
        self.inbox: deque[Any] = deque()
        self.outbox: list[Any] = []
        self.errors: list[Exception] = []
        self.logic = isotp.TransportLayerLogic(
            rxfn=lambda timeout: self.inbox.popleft() if self.inbox else None,
            txfn=self.outbox.append,
            address=isotp.Address(**PAIRS[pair][1]),
            error_handler=self.errors.append,
            params={"max_frame_size": MAX_BYTES, "wftmax": 10, **params},
        )


def join(ours: Node, theirs: Theirs, done: Any) -> None:
    """Carry frames until ``done``; identifiers must be right both ways. Their pauses pass in real time, ours do not."""
    address, fd = ours.core.address, ours.core.settings.tx_dl > 8
    deadline, carried = time.monotonic() + 20, 0
    while not done():
        assert time.monotonic() < deadline, (theirs.errors, ours.errors)
        ours.wait(1)
        for payload in ours.sent[carried:]:
            theirs.inbox.append(
                isotp.CanMessage(address.tx_id, len(payload), payload, extended_id=address.extended_id, is_fd=fd)
            )
        carried = len(ours.sent)
        theirs.logic.process()
        heard, theirs.outbox[:] = list(theirs.outbox), []
        for message in heard:
            assert (message.arbitration_id, message.is_extended_id) == address.hears
            ours.hear(bytes(message.data))


def check_both_ways(
    pair: str, tx_dl: int, our_bs: int, their_bs: int, st_min: int, padding: int | None, length: int
) -> None:
    ours = Node(
        Settings(tx_dl=tx_dl, block_size=our_bs, st_min=st_min, padding=padding, max_message_bytes=MAX_BYTES),
        PAIRS[pair][0],
    )
    theirs = Theirs(
        pair, stmin=st_min, blocksize=their_bs, tx_padding=padding, tx_data_length=tx_dl, can_fd=tx_dl > 8
    )  # fmt: skip
    message = bytes(i * 31 & 0xFF for i in range(length))
    ours.send(message)
    join(ours, theirs, lambda: theirs.logic.available())
    assert theirs.logic.recv() == bytearray(message)
    join(ours, theirs, lambda: ours.outcome is not None)
    theirs.logic.send(message)
    join(ours, theirs, lambda: ours.received)
    assert ours.received == [message]
    assert (ours.errors, theirs.errors, ours.outcome) == ([], [], True)


@pytest.mark.parametrize("tx_dl", [8, 64])
@pytest.mark.parametrize("length", [1, 6, 7, 8, 10, 11, 61, 62, 63, 4095, 4096])
@pytest.mark.parametrize("pair", PAIRS)
def test_all_formats_and_edges_both_ways(pair: str, tx_dl: int, length: int) -> None:
    check_both_ways(pair, tx_dl, 16, 8, 0, 0xCC, length)


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    st.sampled_from(sorted(PAIRS)),
    st.sampled_from([8, 12, 16, 20, 24, 32, 48, 64]),
    st.integers(0, 64),
    st.integers(0, 64),
    st.sampled_from([0, 0, 0xF1]),
    st.sampled_from([None, 0xCC, 0xAA, 0x00]),
    st.one_of(st.integers(1, 70), st.integers(1, 700)),
)
def test_any_parameters_both_ways(
    pair: str, tx_dl: int, our_bs: int, their_bs: int, st_min: int, padding: int | None, length: int
) -> None:
    check_both_ways(pair, tx_dl, our_bs, their_bs, st_min, padding, length)


def test_both_send_long_messages_at_once() -> None:
    ours, theirs = Node(), Theirs("normal")
    a, b = bytes(range(256)) * 4, bytes(range(255, -1, -1)) * 4
    ours.send(a)
    theirs.logic.send(b)
    join(ours, theirs, lambda: ours.received and theirs.logic.available() and ours.outcome)
    assert ours.received == [b]
    assert theirs.logic.recv() == bytearray(a)


def test_their_overflow_is_understood() -> None:
    ours, theirs = Node(), Theirs("normal", max_frame_size=100)
    ours.send(bytes(101))
    join(ours, theirs, lambda: ours.outcome is not None)
    assert ours.outcome == "buffer_ovflw"


def test_our_overflow_is_understood() -> None:
    ours, theirs = Node(Settings(max_message_bytes=100)), Theirs("normal")
    theirs.logic.send(bytes(101))
    join(ours, theirs, lambda: theirs.errors)
    assert [type(e).__name__ for e in theirs.errors] == ["OverflowError"]


def raw_frames() -> st.SearchStrategy[bytes]:
    """Frames as receivers see them: many right ones, some not.

    None that the two judge differently on purpose: can-isotp ends a reception for any invalid frame, which the
    standard has ignored.
    """
    return st.one_of(
        st.builds(lambda n, b: (bytes([n]) + b + bytes(7))[:8], st.integers(1, 7), st.binary(max_size=7)),
        st.builds(lambda n: bytes([0x10, n]) + bytes(6), st.integers(8, 40)),
        st.builds(lambda n: bytes([0x20 | n]) + bytes([n]) * 7, st.integers(0, 15)),
        st.builds(lambda n: bytes([0x20 | n]) + bytes([n]) * 7, st.integers(1, 4)),
        st.builds(lambda n, b: bytes([0x20 | n]) + b, st.integers(0, 15), st.binary(min_size=7, max_size=7)),
        st.builds(lambda n, bs: bytes([0x30 | n, bs, 0]) + bytes(5), st.integers(0, 2), st.integers(0, 255)),
    )


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.lists(raw_frames(), max_size=25))
def test_both_make_the_same_messages_of_any_classic_frames(frames: list[bytes]) -> None:
    ours, theirs = Node(), Theirs("normal", tx_padding=0xCC, blocksize=16)
    for frame in frames:
        ours.hear(frame)
        theirs.inbox.append(isotp.CanMessage(0x7E0 + 8, 8, frame))
    # The other side hears what we hear: it takes our place.
    theirs.logic.set_address(isotp.Address(MODE.Normal_11bits, txid=0x7E0, rxid=0x7E8))
    for _ in range(len(frames) + 2):
        theirs.logic.process()
    got = []
    while theirs.logic.available():
        got.append(bytes(theirs.logic.recv() or b""))
    assert got == ours.received
    assert [bytes(m.data) for m in theirs.outbox] == ours.sent


def test_fixed_is_what_can_isotp_calls_so() -> None:
    """The identifiers of fixed addressing are computed alike."""
    for target, source in ((0x50, 0xF1), (0, 255), (0x33, 0xF9)):
        theirs = isotp.Address(MODE.NormalFixed_29bits, target_address=target, source_address=source)
        assert theirs.get_tx_arbitration_id() == fixed(target, source).tx_id
        assert theirs.get_rx_arbitration_id() == fixed(target, source).rx_id
        functional = isotp.TargetAddressType.Functional
        assert theirs.get_tx_arbitration_id(functional) == fixed(target, source, functional=True).tx_id
