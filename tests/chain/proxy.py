"""A TCP relay on loopback that a test can cut, stall and mend: the bad network between vehicle and cloud."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

CHUNK = 65536


class _Sent:
    """How much the client of one connection has sent."""

    bytes = 0


class Proxy:
    """Relays connections to a port. ``cut`` ends them and refuses new ones; ``mend`` lets them through again.

    ``drop_answers`` delivers requests but ends each connection when the answer comes: the cloud has the batch, the
    vehicle does not know. ``bytes_per_s`` makes each direction of each connection slow.
    """

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._is_cut = False
        self.drop_answers = False
        self.bytes_per_s: float | None = None
        self.connections = 0
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """No connection lives, none is made."""
        with self._lock:
            self._is_cut = True
            for sock in self._open:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """New connections pass again."""
        with self._lock:
            self._is_cut = False

    def close(self) -> None:
        """Stop for good."""
        self.cut()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                refused = self._is_cut
            if refused:
                client.close()
                continue
            self.connections += 1
            try:
                server = socket.create_connection(("127.0.0.1", self._target_port), 5)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            with self._lock:
                self._open |= {client, server}
            sent = _Sent()
            for source, sink, is_answer in ((client, server, False), (server, client, True)):
                threading.Thread(target=self._pump, args=(source, sink, is_answer, sent), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, is_answer: bool, sent: _Sent) -> None:
        seen = 0
        try:
            while data := source.recv(CHUNK):
                seen += len(data)
                if not is_answer:
                    sent.bytes = seen
                # The TLS handshake is let through; what follows on the way back is an answer.
                if is_answer and self.drop_answers and (seen > 6000 or sent.bytes > 6000):
                    break
                if self.bytes_per_s:
                    time.sleep(len(data) / self.bytes_per_s)
                sink.sendall(data)
        except OSError:
            pass
        finally:
            for sock in (source, sink):
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
            with self._lock:
                self._open.discard(source)
            source.close()
