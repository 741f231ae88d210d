"""Every frame and every item is accounted for, across clean stops and crashes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.telemetry.ledger import LedgerKeeper, SourceCounts
from gateway.wire.ledger import Ledger, StreamLedger


def streams(stored: int, acknowledged: int = 0, evicted: int = 0) -> dict[str, StreamLedger]:
    return {
        "normal": StreamLedger(
            stream="normal",
            stored=stored,
            acknowledged=acknowledged,
            evicted=evicted,
            pending=stored - acknowledged - evicted,
        )
    }


def started(previous: bytes | None = None, stored: int = 0, boot: str = "boot-1") -> LedgerKeeper:
    return LedgerKeeper(["can0"], previous, stored, kernel_boot=boot)


def feed(keeper: LedgerKeeper, total: int, rx: int | None, dropped: int = 0) -> None:
    """A source that has handed over ``total`` frames since it was opened, all of them selected just now."""
    keeper.observe_source("can0", SourceCounts(received=total, kernel_dropped=dropped, interface_rx=rx))


def test_first_run_balances() -> None:
    keeper = started()
    keeper.count_outcomes("can0", undecodable=1, not_selected=2, selected=3, held=4, errors=5)
    feed(keeper, 15, None, dropped=7)
    keeper.select_items(30)
    keeper.store_items(10)
    ledger = keeper.ledger(1, streams(10))
    assert ledger.buses[0].received == 22
    assert ledger.buffered_items == 20
    assert ledger.unexplained == 0


def test_items_in_memory_at_a_crash_become_lost_to_the_item() -> None:
    keeper = started()
    keeper.select_items(100)
    keeper.store_items(60)
    state = keeper.persisted()
    after = started(state, stored=60).ledger(2, streams(60))
    assert (after.lost_items, after.buffered_items, after.crashes, after.restarts) == (40, 0, 1, 1)
    assert after.unexplained == 0


def test_clean_stop_loses_nothing_and_is_no_crash() -> None:
    keeper = started()
    keeper.select_items(100)
    keeper.store_items(100)
    after = started(keeper.persisted(is_clean=True), stored=100).ledger(2, streams(100))
    assert (after.lost_items, after.crashes, after.restarts, after.unexplained) == (0, 0, 1, 0)


def test_frames_held_at_a_crash_become_lost() -> None:
    keeper = started()
    keeper.count_outcomes("can0", held=9, selected=1)
    feed(keeper, 10, None)
    after = started(keeper.persisted()).ledger(2, {})
    assert (after.buses[0].held, after.buses[0].lost, after.unexplained) == (0, 9, 0)


def test_frames_that_passed_while_the_gateway_was_dead_are_lost_to_the_frame() -> None:
    keeper = started()
    keeper.count_outcomes("can0", selected=50)
    feed(keeper, 50, rx=1050)  # the interface had counted 1,000 before we came
    state = keeper.persisted()
    again = started(state)
    feed(again, 0, rx=1400)  # 350 passed; 5 of the new ones are still in the socket queue
    assert again.ledger(2, {}).buses[0].lost == 350
    again.count_outcomes("can0", selected=10)
    feed(again, 10, rx=1405)
    ledger = again.ledger(3, {})
    assert ledger.buses[0].lost == 345
    assert ledger.buses[0].received == 50 + 345 + 10
    assert ledger.unexplained == 0


def test_reboot_or_new_interface_does_not_invent_losses() -> None:
    keeper = started()
    keeper.count_outcomes("can0", selected=50)
    feed(keeper, 50, rx=1050)
    state = keeper.persisted()
    rebooted = started(state, boot="boot-2")
    feed(rebooted, 0, rx=5000)
    assert rebooted.ledger(2, {}).buses[0].lost == 0
    recreated = started(state)
    feed(recreated, 0, rx=3)
    assert recreated.ledger(2, {}).buses[0].lost == 0


def test_state_newer_than_what_is_stored_and_the_reverse_both_balance() -> None:
    keeper = started()
    keeper.select_items(10)
    old = keeper.persisted()
    assert started(old, stored=25).ledger(1, streams(25)).unexplained == 0
    assert started(None, stored=25).ledger(1, streams(25)).unexplained == 0
    assert started(b"\xc1 not a state", stored=25).ledger(1, streams(25)).unexplained == 0


Step = tuple[str, int]
steps = st.lists(
    st.tuples(st.sampled_from(["frames", "passed", "select", "store", "persist", "crash", "stop"]), st.integers(0, 50)),
    max_size=60,
)


@given(steps)
def test_identity_holds_in_any_order_of_work_and_crashes(story: list[Step]) -> None:
    """A model bus and a model disk: at the end every frame on the bus and every item selected has a place."""
    on_bus = handed = stored = in_memory = 0
    keeper = started()
    feed(keeper, 0, rx=0)
    state = keeper.persisted()
    ledger: Ledger
    for what, count in story:
        if what == "frames":
            on_bus, handed = on_bus + count, handed + count
            keeper.count_outcomes("can0", selected=count)
            feed(keeper, handed, rx=on_bus)
        elif what == "select":
            keeper.select_items(count)
            in_memory += count
        elif what == "store":
            taken = min(count, in_memory)
            in_memory -= taken
            stored += taken
            keeper.store_items(taken)
            state = keeper.persisted()  # travels inside the stored record
        elif what == "persist":
            state = keeper.persisted()
        elif what in ("crash", "stop"):
            if what == "stop":
                stored, in_memory = stored + in_memory, 0
                keeper = started(state, stored)  # nothing was persisted after: the same as a crash to the ledger
            on_bus += count if what == "crash" else 0
            keeper, handed, in_memory = started(state, stored), 0, 0
            feed(keeper, 0, rx=on_bus)
            state = keeper.persisted()
        ledger = keeper.ledger(0, streams(stored))
        assert ledger.unexplained == 0
        assert ledger.buses[0].received == on_bus
