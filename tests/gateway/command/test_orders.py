"""Each attack on orders is refused, by name; none is obeyed twice."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.command.orders import Memory, OrderGate, OrderRefusedError, OrderRules, Refusal
from gateway.wire.orders import MAX_LIFE_S, MAX_ORDER_BYTES, Order, SignedOrder, key_id_of
from tests.gateway.command.support import HOUR_NS, KEY, NOW_NS, OTHER_KEY, SECOND_NS, order, public_of, signed


def gate(memory: Memory | None = None, rules: OrderRules | None = None, key: bytes = public_of(KEY)) -> OrderGate:
    return OrderGate("VIN1", key, memory or Memory(), ["diagnostics"], rules)


def refusal_of(
    wanted: SignedOrder, gate_: OrderGate | None = None, *, clock_ns: int = NOW_NS, monotonic_ns: int = 0
) -> Refusal:
    with pytest.raises(OrderRefusedError) as caught:
        (gate_ or gate()).judge(wanted, clock_ns, monotonic_ns)
    assert str(caught.value)
    return caught.value.refusal


def obey(gate_: OrderGate, wanted: Order, clock_ns: int = NOW_NS) -> None:
    gate_.remember(gate_.judge(signed(wanted), clock_ns, 0))
    gate_.finished(wanted.id)


def test_an_order_that_is_as_it_should_be_is_obeyed() -> None:
    assert gate().judge(signed(order()), NOW_NS, 0) == order()


def test_a_forged_order_is_refused() -> None:
    """Signed with another key under our key's name, or not signed at all."""
    good = signed(order())
    forged = msgspec.structs.replace(signed(order(), OTHER_KEY), key_id=good.key_id)
    assert refusal_of(forged) is Refusal.BAD_SIGNATURE
    for signature in (b"", bytes(64), good.signature[:63], good.signature + b"x"):
        assert refusal_of(msgspec.structs.replace(good, signature=signature)) is Refusal.BAD_SIGNATURE


def test_a_signature_for_something_else_means_nothing_here() -> None:
    """Without the domain before it, the same key's signature is no order."""
    payload = msgspec.json.encode(order())
    bare = SignedOrder(id="order-1", key_id=key_id_of(public_of(KEY)), payload=payload, signature=KEY.sign(payload))
    assert refusal_of(bare) is Refusal.BAD_SIGNATURE


@given(st.data())
def test_an_altered_order_is_refused(data: st.DataObject) -> None:
    """Whatever single byte of payload or signature changes."""
    good = signed(order())
    field = data.draw(st.sampled_from(["payload", "signature"]))
    content = bytearray(getattr(good, field))
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    assert refusal_of(msgspec.structs.replace(good, **{field: bytes(content)})) is Refusal.BAD_SIGNATURE


def test_an_order_signed_with_an_unknown_key_is_refused() -> None:
    assert refusal_of(signed(order(), OTHER_KEY)) is Refusal.UNKNOWN_KEY
    assert refusal_of(signed(order()), gate(key=b"")) is Refusal.NO_KEY


def test_after_a_change_of_the_key_the_old_one_gives_no_more_orders() -> None:
    changed = gate()
    changed.set_key(public_of(OTHER_KEY))
    assert refusal_of(signed(order()), changed) is Refusal.UNKNOWN_KEY
    assert changed.judge(signed(order(), OTHER_KEY), NOW_NS, 0).id == "order-1"


def test_an_order_for_another_vehicle_is_refused() -> None:
    assert refusal_of(signed(order(vehicle="VIN2"))) is Refusal.OTHER_VEHICLE


def test_an_order_of_an_unknown_kind_is_refused() -> None:
    assert refusal_of(signed(order(kind="unlock-doors"))) is Refusal.UNKNOWN_KIND


def test_an_oversize_order_is_refused_before_anything_is_computed() -> None:
    huge = SignedOrder(id="x", key_id="", payload=bytes(MAX_ORDER_BYTES + 1), signature=b"")
    assert refusal_of(huge) is Refusal.OVERSIZE


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{}",
        b"[" * 60_000,
        b"\xff\xfe",
        msgspec.json.encode(order())[:-1] + b',"only_if_parked":true}',
        msgspec.json.encode(order(id_="")),
        msgspec.json.encode(order(id_="x" * 65)),
    ],
)
def test_a_signed_payload_that_is_no_order_is_refused(payload: bytes) -> None:
    """Also one with a key we do not know: it may have been meant to restrict."""
    assert refusal_of(signed(payload)) is Refusal.MALFORMED


def test_an_order_under_another_id_than_inside_is_refused() -> None:
    assert refusal_of(msgspec.structs.replace(signed(order()), id="order-2")) is Refusal.MALFORMED


def test_a_replayed_order_is_refused() -> None:
    one = gate()
    one.remember(one.judge(signed(order()), NOW_NS, 0))
    assert refusal_of(signed(order()), one) is Refusal.REPLAYED
    one.finished("order-1")
    assert refusal_of(signed(order()), one) is Refusal.REPLAYED


def test_a_replayed_order_is_refused_after_a_restart() -> None:
    one = gate()
    obey(one, order())
    again = gate(msgspec.json.decode(msgspec.json.encode(one.memory), type=Memory))
    assert refusal_of(signed(order()), again) is Refusal.REPLAYED


def test_an_expired_order_is_refused() -> None:
    assert refusal_of(signed(order()), clock_ns=NOW_NS + HOUR_NS) is Refusal.EXPIRED
    assert gate().judge(signed(order()), NOW_NS + HOUR_NS - 1, 0).id == "order-1"


def test_an_order_from_the_future_is_refused_beyond_the_allowed_skew() -> None:
    rules = OrderRules(skew_ns=60 * SECOND_NS)
    assert refusal_of(signed(order()), gate(rules=rules), clock_ns=NOW_NS - 61 * SECOND_NS) is Refusal.FUTURE
    assert gate(rules=rules).judge(signed(order()), NOW_NS - 60 * SECOND_NS, 0).id == "order-1"


def test_an_order_that_lives_longer_than_is_remembered_is_refused() -> None:
    long = order(expires_ns=NOW_NS + (MAX_LIFE_S + 1) * SECOND_NS)
    assert refusal_of(signed(long)) is Refusal.TOO_LONG_LIVED


def test_setting_the_clock_back_revives_no_order_that_was_held_back() -> None:
    """The time the cloud signed or told stays the least, also over a restart."""
    held_back = signed(order("held-back"))
    one = gate()
    obey(one, order("later", issued_ns=NOW_NS + 2 * HOUR_NS, expires_ns=NOW_NS + 3 * HOUR_NS), NOW_NS + 2 * HOUR_NS)
    assert refusal_of(held_back, one, clock_ns=NOW_NS) is Refusal.EXPIRED
    assert refusal_of(held_back, gate(one.memory), clock_ns=NOW_NS) is Refusal.EXPIRED
    told = gate()
    told.heard(NOW_NS + 2 * HOUR_NS, 0)
    assert refusal_of(held_back, told, clock_ns=0) is Refusal.EXPIRED


def test_time_goes_on_from_what_the_cloud_said_whatever_the_clock_does() -> None:
    one = gate()
    one.heard(NOW_NS, 10 * SECOND_NS)
    assert one.judge(signed(order()), 0, 10 * SECOND_NS + HOUR_NS - 1).id == "order-1"
    assert refusal_of(signed(order()), one, clock_ns=0, monotonic_ns=10 * SECOND_NS + HOUR_NS) is Refusal.EXPIRED


def test_the_cloud_cannot_set_time_back() -> None:
    one = gate()
    one.heard(NOW_NS + 2 * HOUR_NS, 0)
    one.heard(NOW_NS, 1)
    assert refusal_of(signed(order()), one) is Refusal.EXPIRED


def test_a_clock_that_once_ran_ahead_deafens_nobody_for_ever() -> None:
    one = gate()
    ahead_ns = NOW_NS + 10_000 * HOUR_NS
    assert refusal_of(signed(order()), one, clock_ns=ahead_ns) is Refusal.EXPIRED
    assert gate(one.memory).judge(signed(order()), NOW_NS, 0).id == "order-1"


def test_what_is_remembered_is_bounded_and_forgotten_only_when_it_cannot_come_back() -> None:
    rules = OrderRules(max_remembered=3)
    one = gate(rules=rules)
    for i in range(3):
        obey(one, order(f"order-{i}"))
    assert refusal_of(signed(order("order-9")), one) is Refusal.TOO_MANY
    later_ns = NOW_NS + 2 * HOUR_NS
    late = order("late", issued_ns=later_ns, expires_ns=later_ns + HOUR_NS)
    assert refusal_of(signed(late), one, clock_ns=later_ns) is Refusal.TOO_MANY  # only our clock says it is late
    one.heard(later_ns, 0)
    obey(one, late, later_ns)
    assert list(one.memory.orders) == ["late"]
    assert refusal_of(signed(order("order-0")), one, clock_ns=NOW_NS) is Refusal.EXPIRED


def test_after_its_memory_was_lost_a_vehicle_obeys_only_what_is_issued_later() -> None:
    lost = gate(Memory(is_lost=True))
    assert refusal_of(signed(order()), lost) is Refusal.REPLAYED
    lost.heard(NOW_NS + 5 * SECOND_NS, 0)
    assert refusal_of(signed(order()), lost) is Refusal.REPLAYED
    again = gate(lost.memory)
    assert refusal_of(signed(order()), again) is Refusal.REPLAYED
    fresh = order("fresh", issued_ns=NOW_NS + 6 * SECOND_NS)
    assert again.judge(signed(fresh), NOW_NS + 6 * SECOND_NS, 0).id == "fresh"


@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.integers(-3 * 3600, 6 * 3600), st.sampled_from(["order", "heard", "restart"])),
        max_size=30,
    )
)
def test_whatever_clocks_and_restarts_do_no_order_is_obeyed_twice(steps: list[tuple[int, int, str]]) -> None:
    one = gate(rules=OrderRules(max_remembered=3))
    obeyed: list[str] = []
    for number, seconds, what in steps:
        clock_ns = NOW_NS + seconds * SECOND_NS
        if what == "heard":
            one.heard(clock_ns, 0)
        elif what == "restart":
            one = gate(one.memory, OrderRules(max_remembered=3))
        else:
            issued_ns = NOW_NS + number * 1800 * SECOND_NS
            wanted = order(str(number), issued_ns=issued_ns, expires_ns=issued_ns + HOUR_NS)
            try:
                one.remember(one.judge(signed(wanted), clock_ns, 0))
            except OrderRefusedError:
                continue
            one.finished(wanted.id)
            obeyed.append(wanted.id)
    assert len(obeyed) == len(set(obeyed))


@given(st.binary(max_size=200), st.binary(max_size=80), st.text(max_size=20))
def test_any_bytes_are_refused(payload: bytes, signature: bytes, key_id: str) -> None:
    assert refusal_of(SignedOrder(id="x", key_id=key_id, payload=payload, signature=signature))
    ours = SignedOrder(id="x", key_id=key_id_of(public_of(KEY)), payload=payload, signature=signature)
    assert refusal_of(ours) is Refusal.BAD_SIGNATURE


def test_keys_are_checked_when_given() -> None:
    with pytest.raises(ValueError):
        gate(key=b"short")
