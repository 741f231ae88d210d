"""ISO 15765-2, rule by rule."""

from __future__ import annotations

import pytest

from gateway.isotp.framing import st_min_ns
from gateway.isotp.model import Address, Addressing, OversizeError, Settings, fixed
from tests.gateway.isotp.harness import ADDRESSES, EXTENDED, MIXED, NORMAL, Node, exchange

FD = Settings(tx_dl=64, max_message_bytes=10_000)
CTS, WAIT, OVFLW = "300000", "310000", "320000"


def cf(number: int, fill: int = 0xAA, size: int = 8) -> bytes:
    return bytes([0x20 | number & 0xF]) + bytes([fill]) * (size - 1)


def pattern(length: int) -> bytes:
    return bytes(i * 7 & 0xFF for i in range(length))


# --- single frames ---


@pytest.mark.parametrize(
    "frame", ["00", "0000000000000000", "0801020304050607", "0f01020304050607", "0302", "07010203"]
)
def test_single_frame_with_length_0_or_more_than_it_holds_is_ignored(frame: str) -> None:
    node = Node()
    assert node.hear(frame) == []
    assert (node.received, node.errors) == ([], [])


@pytest.mark.parametrize("padding", ["", "cccccccc", "aaaaaaaa", "55555555"])
def test_single_frame_padded_or_not_is_accepted(padding: str) -> None:
    node = Node()
    node.hear("03010203" + padding)
    assert node.received == [b"\1\2\3"]


def test_single_frame_of_seven_bytes() -> None:
    node = Node()
    assert node.send(pattern(7)) == [b"\x07" + pattern(7)]
    node.hear(b"\x07" + pattern(7))
    assert node.received == [pattern(7)]
    assert node.outcome is True


def test_single_frame_is_padded_with_the_chosen_byte_or_not_at_all() -> None:
    assert Node(Settings(padding=0xAA)).send(b"\x3e\x00") == [bytes.fromhex("023e00aaaaaaaaaa")]
    assert Node(Settings(padding=None)).send(b"\x3e\x00") == [bytes.fromhex("023e00")]


def test_escape_single_frame_needs_more_than_8_bytes_of_frame() -> None:
    node = Node(FD)
    node.hear("0006010203040506")
    assert node.received == []
    node.hear("000a" + pattern(10).hex())
    assert node.received == [pattern(10)]


def test_frame_of_more_than_8_bytes_with_short_length_is_ignored() -> None:
    node = Node(FD)
    node.hear(b"\x07" + pattern(11))
    assert node.received == []


@pytest.mark.parametrize("length", [0, 11, 62])
def test_escape_single_frame_with_length_0_or_more_than_it_holds_is_ignored(length: int) -> None:
    node = Node(FD)
    node.hear(bytes([0, length]) + bytes(10))
    assert node.received == []


@pytest.mark.parametrize(("length", "can_dl"), [(7, 8), (8, 12), (10, 12), (11, 16), (30, 32), (31, 48), (62, 64)])
def test_fd_single_frames_have_lengths_that_exist(length: int, can_dl: int) -> None:
    (frame,) = Node(FD).send(pattern(length))
    assert len(frame) == can_dl
    assert frame[2 if length > 7 else 1 :].startswith(pattern(length))
    node = Node(FD)
    node.hear(frame)
    assert node.received == [pattern(length)]


def test_fd_frames_without_padding_are_filled_only_to_a_length_that_exists() -> None:
    frames = Node(Settings(tx_dl=64, padding=None))
    assert frames.send(pattern(3)) == [b"\x03" + pattern(3)]
    assert frames.send(pattern(11)) == [b"\x00\x0b" + pattern(11) + b"\xcc" * 3]


# --- first frames ---


@pytest.mark.parametrize(("length", "is_taken"), [(1, False), (7, False), (8, True)])
def test_first_frame_of_what_fits_a_single_frame_is_ignored(length: int, is_taken: bool) -> None:
    node = Node()
    assert bool(node.hear(bytes([0x10, length]) + bytes(6))) is is_taken


@pytest.mark.parametrize(("length", "is_taken"), [(6, False), (7, True)])
def test_first_frame_limit_is_one_less_with_an_address_byte(length: int, is_taken: bool) -> None:
    node = Node(address=EXTENDED)
    assert bool(node.hear(bytes([0xF1, 0x10, length]) + bytes(5))) is is_taken


@pytest.mark.parametrize(("length", "is_taken"), [(8, False), (62, False), (63, True)])
def test_fd_first_frame_of_what_fits_a_single_frame_is_ignored(length: int, is_taken: bool) -> None:
    node = Node(FD)
    assert bool(node.hear(bytes([0x10, length]) + bytes(62))) is is_taken


@pytest.mark.parametrize("size", [3, 7, 9, 11, 13, 63])
def test_first_frame_of_a_length_that_is_no_tx_dl_is_ignored(size: int) -> None:
    node = Node(FD)
    assert node.hear((b"\x12\x00" + bytes(62))[:size]) == []
    assert not node.core.receiver.is_active


def test_first_frame_with_32_bit_length() -> None:
    node = Node(Settings(max_message_bytes=5000, block_size=0))
    assert node.hear("100000001000aabb") == [bytes.fromhex("300000cccccccccc")]
    message = b"\xaa\xbb" + b"\xaa" * 4094
    for n in range(1, 1 + -(-4094 // 7)):
        node.hear(cf(n))
    assert node.received == [message]


def test_32_bit_length_that_fits_12_bits_is_ignored() -> None:
    node = Node(Settings(max_message_bytes=5000))
    assert node.hear("100000000fffaabb") == []
    assert not node.core.receiver.is_active


def test_messages_of_more_than_4095_bytes_are_sent_with_32_bit_length() -> None:
    node = Node(Settings(max_message_bytes=5000))
    assert node.send(pattern(4096)) == [bytes.fromhex("100000001000") + pattern(2)]
    node = Node()
    assert node.send(pattern(4095)) == [bytes.fromhex("1fff") + pattern(6)]


def test_message_longer_than_the_limit_is_refused_with_overflow() -> None:
    node = Node(Settings(max_message_bytes=100))
    assert node.hear("1065010203040506") == [bytes.fromhex("320000cccccccccc")]
    assert node.errors == ["buffer_ovflw"]
    node.hear(cf(1))
    assert node.received == []
    assert node.core.deadline_ns is None


def test_announcing_4_gigabytes_costs_nothing() -> None:
    node = Node(Settings(max_message_bytes=0xFFFFFFFF))
    node.hear("1000ffffffff0102")
    assert node.core.receiver.is_active
    assert len(node.core.receiver._message) == 2


def test_receiver_learns_frame_length_from_the_first_frame() -> None:
    node = Node()  # sends classic frames, yet takes FD ones
    node.hear(b"\x10\x50" + pattern(80)[:30])
    node.hear(b"\x21" + pattern(80)[30:61])
    node.hear(b"\x22" + pattern(80)[61:80])
    assert node.received == [pattern(80)]


# --- consecutive frames ---


def test_consecutive_frame_without_first_is_ignored() -> None:
    node = Node()
    assert node.hear(cf(1)) == []
    assert (node.received, node.errors) == ([], [])


@pytest.mark.parametrize("number", [0, 1, 3])
def test_wrong_sequence_number_aborts(number: int) -> None:
    node = Node()
    node.hear("1020010203040506")
    node.hear(cf(1))
    node.hear(cf(number))
    assert node.errors == ["wrong_sn"]
    node.hear(cf(2))
    assert node.received == []
    assert node.core.deadline_ns is None


def test_sequence_number_wraps() -> None:
    node = Node(Settings(block_size=0))
    node.hear("10ff" + "aa" * 6)
    for n in range(1, 37):
        node.hear(cf(n))
    assert node.received == [b"\xaa" * 255]


def test_consecutive_frame_shorter_than_the_first_is_ignored_unless_last() -> None:
    node = Node()
    node.hear("100e010203040506")
    node.hear("21070809")
    assert node.errors == []
    node.hear("2107080910111213")
    node.hear("2214")
    assert node.received == [bytes.fromhex("0102030405060708091011121314")]


def test_last_consecutive_frame_must_hold_what_is_missing() -> None:
    node = Node()
    node.hear("1009010203040506")
    node.hear("210708")
    assert node.received == []
    node.hear("21070809")
    assert node.received == [bytes.fromhex("010203040506070809")]


def test_consecutive_frame_longer_than_the_first_is_ignored() -> None:
    node = Node(FD)
    node.hear("1020010203040506")
    node.hear(cf(1, size=12))
    assert node.errors == []
    node.hear(cf(1))
    assert len(node.core.receiver._message) == 13


def test_last_frame_is_padded_or_short() -> None:
    for padding, size in ((0xCC, 8), (None, 4)):
        a, b = Node(Settings(padding=padding)), Node()
        sizes: list[int] = []
        exchange(a, b, pattern(6 + 7 + 3), lambda frame, sizes=sizes: sizes.append(len(frame)))  # type: ignore[misc]  # binds
        assert sizes == [8, 8, size]
        assert b.received == [pattern(16)]


# --- unexpected frames, full duplex ---


@pytest.mark.parametrize(("frame", "messages"), [("023e00", [b"\x3e\x00"]), ("1020010203040506", [])])
def test_single_or_first_frame_aborts_a_reception(frame: str, messages: list[bytes]) -> None:
    node = Node()
    node.hear("1010010203040506")
    node.hear(frame)
    assert node.errors == ["unexp_pdu"]
    assert node.received == messages


@pytest.mark.parametrize("frame", ["00", "1007000000000000", "4000000000000000", "f0", "", "3000", cf(1, size=3).hex()])
def test_invalid_frame_does_not_disturb_a_reception(frame: str) -> None:
    node = Node()
    node.hear("1009010203040506")
    node.hear(frame)
    node.hear("21070809")
    assert node.received == [bytes(range(1, 10))]
    assert node.errors == []


@pytest.mark.parametrize("kind", range(4, 16))
def test_unknown_frame_types_are_ignored(kind: int) -> None:
    node = Node()
    assert node.hear(bytes([kind << 4, 2, 3, 4, 5, 6, 7, 8])) == []
    assert (node.received, node.errors) == ([], [])


def test_flow_control_that_is_not_awaited_is_ignored() -> None:
    node = Node()
    for frame in (CTS, WAIT, OVFLW, "330000"):
        assert node.hear(frame) == []
    node.hear("1010010203040506")
    assert node.hear(OVFLW) == []
    assert node.core.receiver.is_active


def test_full_duplex_receiving_while_sending() -> None:
    node = Node(Settings(block_size=0))
    node.send(pattern(20))
    node.hear("1009010203040506")
    assert node.hear("300200")[0][0] == 0x21
    node.hear("21070809")
    assert node.received == [bytes(range(1, 10))]
    assert node.outcome is True
    assert [f[0] >> 4 for f in node.sent] == [1, 3, 2, 2]


def test_single_frame_while_sending_is_received() -> None:
    node = Node()
    node.send(pattern(20))
    node.hear("023e00")
    node.hear(CTS)
    assert node.received == [b"\x3e\x00"]
    assert node.outcome is True


# --- flow control, from us ---


def test_flow_control_carries_our_block_size_and_st_min() -> None:
    assert Node(Settings(block_size=8, st_min=0xF3)).hear("1010010203040506")[0][:3] == bytes.fromhex("3008f3")


def test_flow_control_follows_each_block_but_not_the_last_frame() -> None:
    a, b = Node(), Node(Settings(block_size=2))
    exchange(a, b, pattern(6 + 7 * 4))
    assert b.received == [pattern(34)]
    assert len(b.sent) == 2


# --- flow control, from the other side ---


def test_sender_honours_block_size() -> None:
    node = Node()
    node.send(pattern(100))
    assert len(node.hear("300300")) == 3
    assert len(node.hear("300100")) == 1
    assert len(node.hear(CTS)) == 10
    assert node.outcome is True


def test_sender_honours_st_min() -> None:
    node = Node()
    node.send(pattern(6 + 7 * 4))
    node.hear("30000a")
    node.wait(100)
    assert node.outcome is True
    gaps = [b - a for a, b in zip(node.sent_ns[1:], node.sent_ns[2:], strict=False)]
    assert gaps == [10 * 1_000_000] * 3


@pytest.mark.parametrize(
    ("raw", "expected_us"),
    [(0, 0), (1, 1000), (0x7F, 127_000), (0xF1, 100), (0xF9, 900), (0x80, 127_000), (0xF0, 127_000), (0xFA, 127_000),
     (0xFF, 127_000)],
)  # fmt: skip
def test_reserved_st_min_counts_as_127_ms(raw: int, expected_us: int) -> None:
    assert st_min_ns(raw) == expected_us * 1000


def test_st_min_can_be_overridden() -> None:
    node = Node(Settings(override_st_min_us=0))
    node.send(pattern(100))
    assert len(node.hear("30007f")) == 14


def test_st_min_of_the_newest_flow_control_holds() -> None:
    node = Node()
    node.send(pattern(100))
    assert len(node.hear("30027f")) == 1
    node.wait(127)
    assert len(node.hear("300500")) == 5


def test_wait_restarts_n_bs_and_is_accepted_so_many_times_in_a_row() -> None:
    node = Node(Settings(max_wait_frames=2))
    node.send(pattern(100))
    for _ in range(2):
        node.wait(900)
        assert node.hear(WAIT) == []
    node.wait(900)
    assert len(node.hear("300100")) == 1
    for _ in range(2):
        node.hear(WAIT)
    assert node.outcome is None
    node.hear(WAIT)
    assert node.outcome == "wft_ovrn"


def test_overflow_ends_sending() -> None:
    node = Node()
    node.send(pattern(100))
    node.hear(OVFLW)
    assert node.outcome == "buffer_ovflw"
    assert node.hear(CTS) == []


@pytest.mark.parametrize("status", range(3, 16))
def test_invalid_flow_status_ends_sending(status: int) -> None:
    node = Node()
    node.send(pattern(100))
    node.hear(bytes([0x30 | status, 0, 0]))
    assert node.outcome == "invalid_fs"


@pytest.mark.parametrize("frame", ["30", "3000"])
def test_flow_control_too_short_is_ignored(frame: str) -> None:
    node = Node()
    node.send(pattern(100))
    assert node.hear(frame) == []
    assert node.outcome is None


# --- time-outs ---


def test_n_bs_without_flow_control() -> None:
    node = Node()
    node.send(pattern(100))
    node.wait(999)
    assert node.outcome is None
    node.wait(1)
    assert node.outcome == "timeout_bs"


def test_n_bs_after_a_block() -> None:
    node = Node()
    node.send(pattern(100))
    node.hear("300200")
    node.wait(1000)
    assert node.outcome == "timeout_bs"


def test_n_cr_without_consecutive_frame() -> None:
    node = Node()
    node.hear("1030010203040506")
    node.wait(999)
    node.hear(cf(1))
    node.wait(999)
    assert node.errors == []
    node.wait(1)
    assert node.errors == ["timeout_cr"]
    node.wait(5000)
    assert node.errors == ["timeout_cr"]


def test_n_as_when_the_bus_takes_no_frame() -> None:
    node = Node(Settings(n_as_ms=300))
    node.core.sender.start(b"\x3e\x00")
    for _ in range(4):
        assert node.core.offer(node.now_ns) is not None
        node.core.refused(node.now_ns)
        node.now_ns += 100 * 1_000_000
    node.take(node.core.expire(node.now_ns))
    node.pump()
    assert node.outcome == "timeout_a"


def test_n_ar_when_the_bus_takes_no_flow_control() -> None:
    node = Node(Settings(n_as_ms=300))
    node.core.receive(bytes.fromhex("1030010203040506"), node.now_ns)
    assert node.core.offer(node.now_ns) is not None
    node.core.refused(node.now_ns)
    node.now_ns += 300 * 1_000_000
    node.take(node.core.expire(node.now_ns))
    assert node.errors == ["timeout_a"]
    assert node.pump() == []


def test_n_as_starts_anew_with_each_frame() -> None:
    node = Node()
    node.send(pattern(100))
    node.core.receive(bytes.fromhex(CTS), node.now_ns)
    for _ in range(14):
        assert node.core.offer(node.now_ns) is not None
        node.core.refused(node.now_ns)
        node.now_ns += 900 * 1_000_000
        node.take(node.core.expire(node.now_ns))
        node.core.sent(node.now_ns)
    node.pump()
    assert node.outcome is True


# --- addressing ---


@pytest.mark.parametrize("address", ADDRESSES.values(), ids=ADDRESSES)
@pytest.mark.parametrize("tx_dl", [8, 12, 64])
@pytest.mark.parametrize("length", [1, 6, 7, 8, 11, 12, 61, 62, 63, 100, 4095, 4096, 5000])
def test_every_format_carries_every_length(address: Address, tx_dl: int, length: int) -> None:
    settings = Settings(tx_dl=tx_dl, max_message_bytes=5000, block_size=7)
    a, b = Node(settings, address), Node(settings, address.reversed())
    exchange(a, b, pattern(length))
    assert b.received == [pattern(length)]
    assert a.outcome is True
    assert b.errors == []


@pytest.mark.parametrize("address", [EXTENDED, MIXED])
def test_frames_for_another_address_byte_are_ignored(address: Address) -> None:
    node = Node(address=address)
    assert address.rx_extension is not None
    node.hear(bytes([address.rx_extension ^ 1]) + b"\x02\x3e\x00")
    assert node.received == []
    node.hear(bytes([address.rx_extension]) + b"\x02\x3e\x00")
    assert node.received == [b"\x3e\x00"]


def test_extended_single_frame_holds_6_bytes() -> None:
    assert Node(address=EXTENDED).send(pattern(6)) == [b"\x29\x06" + pattern(6)]
    assert Node(address=EXTENDED).send(pattern(7)) == [b"\x29\x10\x07" + pattern(5)]


def test_fixed_addresses_build_the_identifiers() -> None:
    address = fixed(0x50, 0xF1)
    assert (address.tx_id, address.rx_id, address.extended_id) == (0x18DA50F1, 0x18DAF150, True)
    assert fixed(0x33, 0xF1, functional=True).tx_id == 0x18DB33F1
    mixed = fixed(0x50, 0xF1, extension=0x99)
    assert (mixed.tx_id, mixed.rx_id, mixed.addressing) == (0x18CE50F1, 0x18CEF150, Addressing.MIXED)
    assert fixed(0x33, 0xF1, functional=True, extension=0x99).tx_id == 0x18CD33F1


@pytest.mark.parametrize(
    "wrong",
    [
        {"tx_id": 0x800, "rx_id": 1},
        {"tx_id": 1, "rx_id": -1},
        {"tx_id": 1, "rx_id": 0x20000000, "extended_id": True},
        {"tx_id": 1, "rx_id": 2, "tx_extension": 1, "rx_extension": 1},
        {"tx_id": 1, "rx_id": 2, "addressing": Addressing.EXTENDED},
        {"tx_id": 1, "rx_id": 2, "addressing": Addressing.MIXED, "tx_extension": 256, "rx_extension": 0},
        {"tx_id": 1, "rx_id": 2, "addressing": Addressing.NORMAL_FIXED},
    ],
)
def test_addresses_that_cannot_be_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError):
        Address(**wrong)  # type: ignore[arg-type]  # any field


@pytest.mark.parametrize(
    "wrong",
    [
        {"tx_dl": 9}, {"tx_dl": 7}, {"block_size": 256}, {"st_min": -1}, {"padding": 256}, {"max_message_bytes": 0},
        {"max_message_bytes": 1 << 32}, {"n_as_ms": 0}, {"max_wait_frames": -1}, {"override_st_min_us": -1},
    ],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError):
        Settings(**wrong)  # type: ignore[arg-type]  # any field


# --- the caller ---


def test_messages_that_cannot_be_sent_are_refused() -> None:
    node = Node(Settings(max_message_bytes=10))
    with pytest.raises(ValueError):
        node.core.sender.start(b"")
    with pytest.raises(OversizeError) as raised:
        node.core.sender.start(bytes(11))
    assert (raised.value.length_bytes, raised.value.limit_bytes) == (11, 10)
    assert node.send(bytes(10))[0][0] == 0x10
    with pytest.raises(RuntimeError):
        node.core.sender.start(b"x")
    assert NORMAL.reversed().reversed() == NORMAL
