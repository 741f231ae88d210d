"""Any interleaving of frames and time leaves a defined state, bounded memory, and a conversation that still works."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.isotp.model import Address, Settings
from gateway.isotp.sending import SendState
from tests.gateway.isotp.harness import ADDRESSES, Node, exchange
from tests.support import LONG

EXAMPLES = 20_000 if LONG else 200
LIMIT = 300


@dataclass(frozen=True)
class Frame:
    data: bytes


@dataclass(frozen=True)
class Wait:
    ms: float


@dataclass(frozen=True)
class Send:
    length: int


@dataclass(frozen=True)
class Busy:
    """The bus takes nothing for a while."""

    ms: float


def frames(extension: bytes) -> st.SearchStrategy[Frame]:
    """Arbitrary bytes, and frames of the right shape with any values in them."""
    body = st.binary(max_size=64)
    flow = st.tuples(st.sampled_from([0x30, 0x30, 0x31, 0x32, 0x33]), st.integers(0, 3), st.sampled_from([0, 1, 0xF1]))
    shapes = [
        st.binary(max_size=12),
        body,
        st.builds(lambda n, b: (bytes([n]) + b)[:8], st.integers(0, 15), body),
        st.builds(lambda n, b: bytes([0, n]) + b[:62], st.integers(0, 64), body),
        st.builds(lambda n, b: (bytes([0x10 | n >> 8, n & 0xFF]) + b + bytes(6))[:8], st.integers(0, 400), body),
        st.builds(
            lambda n, b: (bytes([0x10, 0]) + n.to_bytes(4, "big") + b + bytes(2))[:8], st.integers(0, 9000), body
        ),
        st.builds(lambda n, b: bytes([0x20 | n]) + (b + bytes(7))[:7], st.integers(0, 15), body),
        flow.map(bytes),
    ]
    return st.one_of(*shapes).map(lambda raw: Frame((extension + raw)[:64]))


def actions(address: Address) -> st.SearchStrategy[list[Frame | Wait | Send | Busy]]:
    extension = b"" if address.rx_extension is None else bytes([address.rx_extension])
    return st.lists(
        st.one_of(
            frames(extension),
            frames(extension),
            st.builds(Wait, st.sampled_from([0.05, 1, 130, 999, 1001])),
            st.builds(Send, st.integers(1, LIMIT)),
            st.builds(Busy, st.sampled_from([1, 1001])),
        ),
        max_size=40,
    )


def act(node: Node, action: Frame | Wait | Send | Busy) -> None:
    match action:
        case Frame(data):
            node.hear(data)
        case Wait(ms):
            node.wait(ms)
        case Send(length):
            if node.core.sender.state is SendState.IDLE:
                node.send(bytes(length))
        case Busy(ms):
            if node.core.offer(node.now_ns) is not None:
                node.core.refused(node.now_ns)
            node.now_ns += round(ms * 1e6)
            node.take(node.core.expire(node.now_ns))


def check(node: Node, heard_bytes: int) -> None:
    sender, receiver = node.core.sender, node.core.receiver
    if sender.state is SendState.IDLE:
        assert sender.deadline_ns is None
        assert not sender._pdu
    if sender.state is SendState.AWAITING:
        assert sender.deadline_ns is not None
    if receiver.is_active:
        assert len(receiver._message) < receiver._total <= LIMIT
        assert len(receiver._message) <= heard_bytes
        assert receiver.deadline_ns is not None
    else:
        assert not receiver._message
    assert all(0 < len(message) <= LIMIT for message in node.received)


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.data(), st.sampled_from(sorted(ADDRESSES)), st.sampled_from([8, 64]))
def test_any_frames_leave_a_conversation_that_works(data: st.DataObject, name: str, tx_dl: int) -> None:
    address = ADDRESSES[name]
    its = Settings(tx_dl=tx_dl, max_message_bytes=LIMIT, block_size=3)
    node, heard_bytes = Node(its, address), 0
    for action in data.draw(actions(address)):
        act(node, action)
        heard_bytes += len(action.data) if isinstance(action, Frame) else 0
        node.pump()
        check(node, heard_bytes)

    # The next clean message passes, whatever was under way.
    for message in (b"\x3e", bytes(range(200))):
        peer = Node(its, address.reversed())
        node.received.clear()
        peer.now_ns = node.now_ns
        exchange(peer, node, message)
        assert node.received == [message]
        assert peer.outcome is True

    # What we were sending ends by itself, and then we can send.
    node.wait(200 * 130 + (its.max_wait_frames + 2) * 1000)
    assert node.core.sender.state is SendState.IDLE
    assert node.next_ns() is None
    peer = Node(its, address.reversed())
    peer.now_ns = node.now_ns
    exchange(node, peer, bytes(range(200)))
    assert peer.received == [bytes(range(200))]
    assert node.outcome is True


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    st.sampled_from(sorted(ADDRESSES)),
    st.sampled_from([8, 12, 16, 20, 24, 32, 48, 64]),
    st.integers(0, 20),
    st.sampled_from([0, 1, 5, 0xF1, 0xF9]),
    st.sampled_from([None, 0xCC, 0x00]),
    st.one_of(st.integers(1, 200), st.integers(1, 5000)),
)
def test_what_is_sent_is_what_is_received(
    name: str, tx_dl: int, block_size: int, st_min: int, padding: int | None, length: int
) -> None:
    address = ADDRESSES[name]
    its = Settings(tx_dl=tx_dl, block_size=block_size, st_min=st_min, padding=padding, max_message_bytes=5000)
    a, b = Node(its, address), Node(its, address.reversed())
    message = bytes(i * 31 & 0xFF for i in range(length))
    sizes: set[int] = set()
    exchange(a, b, message, lambda frame: sizes.add(len(frame)))
    assert b.received == [message]
    assert a.outcome is True
    assert sizes <= {*range(9), 12, 16, 20, 24, 32, 48, 64}
    assert max(sizes) <= tx_dl
    if block_size and a.core.framing.single_bytes < length:
        frames = len(a.sent) - 1
        assert len(b.sent) == 1 + (frames - 1) // block_size


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.data(), st.sampled_from(["normal", "extended"]), st.integers(0, 5))
def test_frames_that_come_together_are_taken_as_one_by_one(data: st.DataObject, name: str, block_size: int) -> None:
    address = ADDRESSES[name]
    extension = b"" if address.rx_extension is None else bytes([address.rx_extension])
    its = Settings(max_message_bytes=LIMIT, block_size=block_size)
    sender = Node(Settings(block_size=0), address.reversed())
    sender.send(bytes(data.draw(st.integers(8, LIMIT))))
    sender.hear(sender.core.framing.prefix + bytes.fromhex("300000"))
    clean = sender.sent
    payloads = [payload.ljust(8, b"\xcc") for payload in clean]
    for at in data.draw(st.lists(st.integers(0, len(clean)), max_size=3)):
        payloads.insert(at, data.draw(frames(extension)).data.ljust(8, b"\0")[:8])
    alone, together = Node(its, address), Node(its, address)
    for node in (alone, together):
        node.core.sender.start(bytes(100))
        node.core.sender.offer(node.now_ns)
        node.core.sender.sent(node.now_ns)
    for payload in payloads:
        alone.take(alone.core.receive(payload, alone.now_ns))
    together.take(together.core.receive_run(b"".join(payloads), 8, together.now_ns))
    assert (together.received, together.errors) == (alone.received, alone.errors)
    assert together.core.deadline_ns == alone.core.deadline_ns
    assert together.core.receiver.offer() == alone.core.receiver.offer()
    state = [
        (r.is_active, bytes(r._message), r._total, r._sequence, r._block_left)
        for r in (together.core.receiver, alone.core.receiver)
    ]
    assert state[0] == state[1]


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    st.sampled_from(sorted(ADDRESSES)), st.sampled_from([8, 64]), st.integers(65, 2000), st.integers(0, 20),
    st.lists(st.integers(1, 70), min_size=1, max_size=8), st.data(),
)  # fmt: skip
def test_a_burst_is_the_frames_that_would_be_offered_one_by_one(
    name: str, tx_dl: int, length: int, block_size: int, limits: list[int], data: st.DataObject
) -> None:
    address = ADDRESSES[name]
    its = Settings(tx_dl=tx_dl, max_message_bytes=5000)
    alone, together = Node(its, address), Node(its, address)
    message = bytes(i & 0xFF for i in range(length))
    flow_control = together.core.address.reversed()
    peer = Node(its, flow_control)
    clear = peer.core.framing.flow_control(0, block_size, 0)
    for node in (alone, together):
        node.core.sender.start(message)
        node.core.offer(node.now_ns)
        node.core.sent(node.now_ns)
    sent: list[bytes] = []
    rounds = 0
    while not together.core.sender.has_outcome:
        alone.hear(clear)
        together.core.receive(clear, together.now_ns)
        while together.core.sender.state is SendState.READY:
            rounds += 1
            joined = together.core.burst(limits[rounds % len(limits)])
            if joined:
                burst = [joined[at : at + tx_dl] for at in range(0, len(joined), tx_dl)]
                taken = data.draw(st.integers(1, len(burst)))
                together.core.sender.sent_burst(taken, together.now_ns)
                sent += burst[:taken]
            else:
                sent += [together.core.offer(together.now_ns) or b""]
                together.core.sent(together.now_ns)
    assert sent == alone.sent
    assert alone.outcome is True
    assert together.core.sender.take_outcome() is True


def test_memory_stays_bounded_when_receptions_never_end() -> None:
    node = Node(Settings(max_message_bytes=0xFFFFFFFF))
    for n in range(2000):
        node.hear(bytes.fromhex("1000ffffffff0102"))
        node.hear(b"\x21" + bytes([n & 0xFF]) * 7)
        assert len(node.core.receiver._message) == 9
    assert node.received == []
    assert len(node.errors) == 1999
