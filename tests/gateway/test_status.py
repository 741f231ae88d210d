"""What ``gateway status`` makes of whoever answers, or does not."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.errors import NotNowError, PeerError
from gateway.status import read_status, table


def answering(path: Path, answer: Callable[[socket.socket], None]) -> threading.Thread:
    """A server of one connection."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen(1)

    def serve() -> None:
        with listener:
            connection, _ = listener.accept()
            with connection:
                answer(connection)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(NotNowError, match="no gateway is running"):
        read_status(tmp_path / "gateway.sock")


def test_gateway_too_busy_to_answer_is_not_called_absent(tmp_path: Path) -> None:
    done = threading.Event()
    thread = answering(tmp_path / "s", lambda _: void(done.wait(10)))
    try:
        with pytest.raises(NotNowError, match="does not answer"):
            read_status(tmp_path / "s", timeout_s=0.1)
    finally:
        done.set()
        thread.join()


def test_gateway_that_hangs_up_is_starting_or_stopping(tmp_path: Path) -> None:
    thread = answering(tmp_path / "s", lambda _: None)
    with pytest.raises(NotNowError, match="gave no answer"):
        read_status(tmp_path / "s")
    thread.join()


def test_something_else_answers(tmp_path: Path) -> None:
    thread = answering(tmp_path / "s", lambda connection: connection.sendall(b"220 mail ready"))
    with pytest.raises(PeerError, match="not understood"):
        read_status(tmp_path / "s")
    thread.join()


def test_table_is_aligned_and_has_no_trailing_blanks() -> None:
    assert table(["name", "count"], [["a", "1"], ["longer", "1,000"]]) == "name    count\na           1\nlonger  1,000"
    assert table(["bus", "state"], []) == "bus  state"


def void(_: object) -> None:
    """For lambdas that must return nothing."""
