"""Which stream a ledger means when it leaves the spool's id out."""

from __future__ import annotations

from dataclasses import dataclass

from cloud.ingest.names import resolve_stream


@dataclass
class Row:
    last_received_ns: int


KNOWN = {"old/normal": Row(900), "new/normal": Row(100), "new/critical": Row(0)}


def test_full_name_is_taken_as_it_is() -> None:
    assert resolve_stream("new/critical", KNOWN, "old") == "new/critical"


def test_spool_of_the_check_in_decides_even_where_another_received_later() -> None:
    assert resolve_stream("normal", KNOWN, "new") == "new/normal"


def test_without_it_the_stream_that_received_last_is_meant() -> None:
    assert resolve_stream("normal", KNOWN) == "old/normal"
    assert resolve_stream("normal", KNOWN, "unheard-of") == "old/normal"


def test_unknown_stream_has_no_name() -> None:
    assert resolve_stream("bulk", KNOWN, "new") is None
