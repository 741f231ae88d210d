"""A library that we did not write, as a tester: doipclient, with udsoncan on top."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.doip.messages import PowerModeCode
from gateway.doip.model import NodeLimits
from gateway.doip.node import DoipNode
from gateway.doip.tls import server_context
from gateway.errors import ConfigError
from tests.gateway.doip.support import ALL, BODY, MOTOR, VIN, Certificates, MemoryRouter, free_port, in_thread, section

doipclient: Any = import_module("doipclient")  # it has no types
connectors: Any = import_module("doipclient.connectors")
messages: Any = import_module("doipclient.messages")
udsoncan: Any = import_module("udsoncan")
udsoncan_client: Any = import_module("udsoncan.client")


@contextmanager
def client(node: DoipNode, target: int = MOTOR, **options: Any) -> Iterator[Any]:
    """A connected, activated foreign tester."""
    options = {"client_logical_address": 0x0E80, "tcp_port": node.port, "udp_port": node.port} | options
    tester = doipclient.DoIPClient("127.0.0.1", target, **options)
    try:
        yield tester
    finally:
        tester.close()


@pytest.mark.parametrize("version", [2, 3])
def test_diagnostics_status_power_mode_identification_and_alive_check(version: int) -> None:
    with (
        in_thread(section(), power_mode=lambda: PowerModeCode.READY) as node,
        client(node, protocol_version=version) as tester,
    ):
        tester.send_diagnostic(b"\x36\x01")
        assert [tester.receive_diagnostic(timeout=5) for _ in range(2)] == [b"\x7f\x36\x78", b"\x76\x01"]
        status = tester.request_entity_status()
        assert (status.node_type, status.max_concurrent_sockets, status.currently_open_sockets) == (0, 8, 1)
        assert status.max_data_size == 4096
        assert tester.request_diagnostic_power_mode().diagnostic_power_mode == 1
        for ask in ({}, {"eid": bytes.fromhex("020000000001")}, {"vin": VIN}):
            found = tester.request_vehicle_identification(**ask)
            assert (found.vin, found.logical_address) == (VIN, 0x1001)
            assert found.vin_sync_status == 0
        assert tester.request_alive_check().source_address == 0x1001


def test_udsoncan_talks_to_each_ecu_through_the_node() -> None:
    with in_thread(section()) as node:
        for target, name in ((MOTOR, b"motor"), (BODY, b"body")):
            with client(node, target) as tester:
                connection = connectors.DoIPClientUDSConnector(tester)
                config = {"data_identifiers": {0xF190: udsoncan.AsciiCodec(len(name))}, "request_timeout": 5}
                with udsoncan_client.Client(connection, config=config) as uds:
                    uds.tester_present()
                    assert uds.read_data_by_identifier(0xF190).service_data.values[0xF190].encode() == name
                    with pytest.raises(udsoncan.exceptions.NegativeResponseException) as refused:
                        uds.ecu_reset(1)
                    assert refused.value.response.code == 0x11


def test_functional_requests_are_answered_by_each() -> None:
    with in_thread(section()) as node, client(node) as tester:
        tester.send_diagnostic_to_address(ALL, b"\x3e\x00")
        sources: set[int] = set()
        while len(sources) < 2:
            message = tester.read_doip(timeout=5)
            assert type(message) is messages.DiagnosticMessage
            sources.add(message.source_address)
        assert sources == {MOTOR, BODY}


def test_it_answers_our_alive_check_and_keeps_its_address() -> None:
    """It answers while it reads; another with its address is refused meanwhile."""
    with (
        in_thread(section(alive_check_ms=5000)) as node,
        client(node) as first,
        client(node, activation_type=None) as second,
    ):
        second.send_doip_message(messages.RoutingActivationRequest(0x0E80, 0))
        first._tcp_sock.settimeout(0.2)  # its own is two seconds
        with pytest.raises(TimeoutError):
            first.receive_diagnostic(timeout=0.2)
        assert second.read_doip(timeout=5).response_code == 0x03
        first.send_diagnostic(b"\x3e\x00")
        assert first.receive_diagnostic(timeout=5) == b"\x7e\x00"


def test_a_tester_gone_without_a_word_is_replaced() -> None:
    with in_thread(section(alive_check_ms=50)) as node, client(node), client(node) as second:
        second.send_diagnostic(b"\x3e\x00")
        assert second.receive_diagnostic(timeout=5) == b"\x7e\x00"


def test_several_testers_at_once_each_hear_their_own_answers() -> None:
    with (
        in_thread(section()) as node,
        client(node, MOTOR) as first,
        client(node, BODY, client_logical_address=0x0E81) as second,
    ):
        first.send_diagnostic(b"\x22\xf1\x90")
        second.send_diagnostic(b"\x22\xf1\x90")
        assert second.receive_diagnostic(timeout=5) == b"\x62\xf1\x90body"
        assert first.receive_diagnostic(timeout=5) == b"\x62\xf1\x90motor"


def test_activation_types_swept_with_no_source_address_all_get_an_answer() -> None:
    """Each on a connection of its own, as discovery scanners do; the types that exist show, nothing blocks."""
    with in_thread(section()) as node:
        codes: dict[int, int] = {}
        for kind in range(256):
            with socket.create_connection(("127.0.0.1", node.port), timeout=5) as sock:
                payload = messages.RoutingActivationRequest(0x0000, kind).pack()
                sock.sendall(b"\x02\xfd\x00\x05" + len(payload).to_bytes(4, "big") + payload)
                answer = b""
                while piece := sock.recv(64):
                    answer += piece  # until the node closes
            codes[kind] = answer[12]
        assert {kind for kind, code in codes.items() if code == 0x00} == {0x00, 0x01, 0xE0}
        assert set(codes.values()) == {0x00, 0x06}
        assert node.statistics().refused == {0x00: 3, 0x06: 253}


def test_refusals_reach_it() -> None:
    with in_thread(section()) as node:
        with client(node, client_logical_address=0x0001, activation_type=None) as stranger:
            assert stranger.request_activation(0).response_code == 0x00
        with client(node, 0x4711) as tester, pytest.raises(OSError, match="negative acknowledge code: 3"):
            tester.send_diagnostic(b"\x3e\x00")


def test_announcements_are_heard_on_this_machine() -> None:
    port = free_port()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("0.0.0.0", port))
        sock.settimeout(5)
        limits = NodeLimits(announce_wait_ms=1, announce_interval_ms=5)
        with in_thread(section(port=port, announce=True), limits=limits) as node:
            heard = [sock.recvfrom(100) for _ in range(3)]
            assert {address for _, address in heard} == {("127.0.0.1", node.port)}
        for data, _ in heard:
            identity = messages.VehicleIdentificationResponse.unpack(data[8:], len(data) - 8)
            assert (identity.vin, identity.eid, identity.gid) == (VIN, *[bytes.fromhex("020000000001")] * 2)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("doip"))


def tls_section(certificates: Certificates, **changes: Any) -> Any:
    return section(
        tls_port=0,
        tls_certificate=certificates.node,
        tls_key=certificates.node_key,
        tls_client_ca=certificates.ca,
        **changes,
    )


def foreign_context(certificates: Certificates, *, has_certificate: bool = True) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=certificates.ca)
    context.check_hostname = False
    if has_certificate:
        context.load_cert_chain(certificates.tester, certificates.tester_key)
    return context


def test_tls_carries_diagnostics_and_the_tester_is_known_by_its_certificate(certificates: Certificates) -> None:
    router = MemoryRouter()
    with (
        in_thread(tls_section(certificates), router) as node,
        client(node, tcp_port=node.tls_port, use_secure=foreign_context(certificates), protocol_version=3) as tester,
    ):
        tester.send_diagnostic(b"\x22\xf1\x90")
        assert tester.receive_diagnostic(timeout=5) == b"\x62\xf1\x90motor"
        (known,) = router.testers
        assert (known.name, known.is_secure) == ("workshop 7", True)


def test_tls_without_the_certificate_that_is_demanded_gets_nowhere(certificates: Certificates) -> None:
    router = MemoryRouter()
    with in_thread(tls_section(certificates), router) as node:
        context = foreign_context(certificates, has_certificate=False)
        with (
            socket.create_connection(("127.0.0.1", node.tls_port or 0), timeout=5) as sock,
            context.wrap_socket(sock) as secured,
        ):
            try:  # TLS 1.3: the refusal comes after the tester's side of the handshake
                secured.sendall(bytes.fromhex("02fd00050000000b0e80000000000000000000"))
                heard = secured.recv(1)
            except OSError:
                heard = b""
            assert heard == b""
        with client(node) as plain:
            plain.send_diagnostic(b"\x3e\x00")
            assert plain.receive_diagnostic(timeout=5) == b"\x7e\x00"
    assert [t.is_secure for t in router.testers] == [False]


def test_handshakes_begun_by_the_dozen_are_bounded_and_cut_after_the_initial_time(certificates: Certificates) -> None:
    config = tls_section(certificates, max_pending_connections=4, initial_inactivity_ms=300)
    with in_thread(config) as node:
        half_open = [socket.create_connection(("127.0.0.1", node.tls_port or 0), timeout=5) for _ in range(30)]
        for number, sock in enumerate(half_open):
            sock.sendall(b"\x16\x03\x01\x02\x00\x01" if number % 2 else b"no TLS at all")
        with client(node, tcp_port=node.tls_port, use_secure=foreign_context(certificates)) as tester:
            tester.send_diagnostic(b"\x3e\x00")
            assert tester.receive_diagnostic(timeout=5) == b"\x7e\x00"
        for sock in half_open:
            with suppress(ConnectionError):
                assert sock.recv(100)[:1] in (b"", b"\x15")  # the end, or a TLS alert before it
            sock.close()
        statistics = node.statistics()
        assert statistics.accepted == 31
        assert statistics.evicted + statistics.closed.get("handshake failed", 0) >= 15


def test_plain_connections_are_sent_to_tls_where_it_is_required(certificates: Certificates) -> None:
    with in_thread(tls_section(certificates, require_tls=True)) as node:
        with client(node, activation_type=None) as plain:
            assert plain.request_activation(0).response_code == 0x07
        with client(node, tcp_port=node.tls_port, use_secure=foreign_context(certificates)) as tester:
            tester.send_diagnostic(b"\x3e\x00")
            assert tester.receive_diagnostic(timeout=5) == b"\x7e\x00"


def test_a_file_name_is_told_when_tls_cannot_be_set_up(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        server_context(section(tls_port=0, tls_certificate=str(tmp_path / "nowhere.pem")))
    named = section(tls_port=0, tls_certificate="node.pem", tls_key="node.key", tls_client_ca="ca.pem")
    assert Certificates(tmp_path).node == str(tmp_path / "node.pem")
    assert server_context(named, tmp_path) is not None
    with pytest.raises(ConfigError, match="tls_client_ca"):
        server_context(msgspec.structs.replace(named, tls_client_ca="none.pem"), tmp_path)
    with pytest.raises(ConfigError, match="tls_port"):
        server_context(section(require_tls=True))
