"""Testers that are not ours: udsoncan over can-isotp (python-can), over the kernel's ISO-TP, and over doipclient.

A tester comes one of three ways: ``direct`` to the ECU's own bus, through the ``connector``, or by ``doip``.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

import can
import isotp
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC
from doipclient.client import DoIPClient
from doipclient.connectors import DoIPClientUDSConnector
from udsoncan.client import Client
from udsoncan.configs import default_client_config
from udsoncan.connections import IsoTPSocketConnection, PythonIsoTpConnection
from udsoncan.exceptions import NegativeResponseException, TimeoutException
from udsoncan.Request import Request
from udsoncan.typing import ClientConfig

from tests.chain.diagnostics.car import CONNECTOR, DOIP_PORT, INTERFACE, channel_of, declared

Way = Literal["direct", "connector", "doip"]
WAYS: tuple[Way, ...] = ("direct", "connector", "doip")
Connect = Callable[[str], contextlib.AbstractContextManager["Foreigner"]]

#: doipclient has no types.
DOIP: Any = DoIPClient
DOIP_CONNECTOR: Any = DoIPClientUDSConnector
IP_MULTICAST_ALL = 49
MODE = isotp.AddressingMode
#: Written down by hand from the vehicle's table, not taken from its descriptions.
ADDRESSES: dict[str, isotp.Address] = {
    "motor": isotp.Address(MODE.Normal_11bits, txid=0x7E0, rxid=0x7E8),
    "gearbox": isotp.Address(MODE.Normal_11bits, txid=0x7E1, rxid=0x7E9),
    "battery": isotp.Address(MODE.Normal_11bits, txid=0x7E4, rxid=0x7EC),
    "body": isotp.Address(MODE.Normal_11bits, txid=0x740, rxid=0x748),
    "brakes": isotp.Address(
        MODE.Extended_11bits, txid=0x6F1, rxid=0x629, target_address=0x29, source_address=0xF1
    ),
    "telematics": isotp.Address(MODE.NormalFixed_29bits, target_address=0x50, source_address=0xF1),
}  # fmt: skip
ANSWERS = {"motor": 0x7E8, "gearbox": 0x7E9, "battery": 0x7EC, "body": 0x748, "brakes": 0x629, "telematics": 0x18DAF150}
LOGICAL = {"motor": 0x1010, "gearbox": 0x1011, "battery": 0x1020, "body": 0x1030, "brakes": 0x1040,
           "telematics": 0x1050, "gateway": 0x1001}  # fmt: skip


class PatientClient(Client):
    """Reads again when an answer was lost: in the guest one slow processor runs the ECUs, the gateway and the tester,
    so that a flow control may come later than the second an ECU waits for it."""

    repeated = 0

    def send_request(self, request: Request, timeout: int = -1) -> Any:
        """As udsoncan; reading may be repeated, nothing else."""
        for _ in range(2 if request.service is not None and request.service.request_id() in (0x22, 0x19) else 0):
            with contextlib.suppress(TimeoutException):
                return super().send_request(request, timeout)
            PatientClient.repeated += 1
        return super().send_request(request, timeout)


def _config() -> ClientConfig:
    config = default_client_config.copy()
    config["request_timeout"], config["p2_timeout"], config["p2_star_timeout"] = 60, 8, 30
    config["use_server_timing"] = False  # the guest has one slow processor
    return config


class Foreigner:
    """A tester at one ECU: a client of udsoncan, and raw requests through it."""

    def __init__(self, client: Client, ecu: str) -> None:
        self.client: Any = client  # udsoncan's own types make every answer optional
        self.ecu = ecu

    def ask(self, request: str | bytes) -> bytes:
        """The final answer to a request, positive or negative; pending ones are waited out."""
        payload = bytes.fromhex(request) if isinstance(request, str) else request
        connection = self.client.conn
        connection.empty_rxqueue()
        connection.send(payload)
        for _ in range(200):
            answer: bytes | None = connection.wait_frame(timeout=20, exception=True)
            assert answer is not None
            if answer[:1] == b"\x7f" and answer[1] == payload[0] and answer[2] == 0x78:
                continue
            if answer[0] == 0x7F or answer[0] == payload[0] | 0x40:
                return answer
        raise AssertionError("pending for ever")

    def good(self, request: str | bytes) -> bytes:
        """The positive answer."""
        answer = self.ask(request)
        shown = request if isinstance(request, str) else request[:12].hex(" ")
        assert answer[0] != 0x7F, f"{self.ecu}: {shown} -> {answer.hex(' ')}"
        return answer

    def nrc(self, request: str | bytes) -> int:
        """The code of the negative answer; 0 for a positive one."""
        answer = self.ask(request)
        return answer[2] if answer[0] == 0x7F else 0

    def tell(self, request: str | bytes) -> None:
        """A request nobody answers."""
        payload = bytes.fromhex(request) if isinstance(request, str) else request
        self.client.conn.send(payload)

    def hears(self, timeout_s: float) -> bytes | None:
        """What comes unasked."""
        heard: bytes | None = self.client.conn.wait_frame(timeout=timeout_s, exception=False)
        return heard

    def unlock(self, level: int) -> None:
        """Security access with the key of the description's algorithm."""
        about = declared(self.ecu)["services"]["27"]["details"]["levels"][f"{level:02X}"]
        for _ in range(6):
            answer = self.ask(bytes([0x27, level]))
            if answer != b"\x7f\x27\x37":
                break
            self.hears(3.0)  # the ECU demands a pause after it has booted; a seed asked for every second is refused
        seed = answer[2:]
        assert answer[:2] == bytes([0x67, level]), answer
        assert len(seed) == about["seed_bytes"]
        assert any(seed)
        self.client.send_key(level + 1, key_of(about["algorithm"], seed, bytes.fromhex(about["constant"])))

    def refused(self, call: Callable[[], object]) -> int:
        """The negative response code udsoncan raises."""
        try:
            call()
        except NegativeResponseException as error:
            return int(error.response.code or 0)
        raise AssertionError("was not refused")


def key_of(algorithm: str, seed: bytes, constant: bytes) -> bytes:
    """Written from the documents of the simulated ECUs, apart from the simulator."""
    if algorithm == "aes_cmac":
        mac = CMAC(AES(constant))
        mac.update(seed)
        return mac.finalize()
    mixed = bytes(a ^ constant[i % len(constant)] for i, a in enumerate(seed))
    if algorithm == "xor":
        return mixed
    bits = len(mixed) * 8
    number = int.from_bytes(mixed, "big")
    return ((number << 3 | number >> (bits - 3)) & ((1 << bits) - 1)).to_bytes(len(mixed), "big")


def bus_of(ecu: str, way: Way) -> str:
    """The interface a tester on CAN is on."""
    return CONNECTOR if way == "connector" else channel_of(declared(ecu)["transport"]["bus"])


@contextlib.contextmanager
def by_library(ecu: str, way: Way = "direct") -> Iterator[Foreigner]:
    """udsoncan on can-isotp on python-can."""
    transport = declared(ecu)["transport"]
    params = {"can_fd": transport["fd"], "tx_data_length": transport["frame_bytes"], "blocksize": 16,
              "rx_flowcontrol_timeout": 8000, "rx_consecutive_frame_timeout": 8000, "tx_padding": 0xAA}  # fmt: skip
    with open_bus(bus_of(ecu, way), ANSWERS[ecu]) as bus:
        notifier = can.Notifier(bus, [], timeout=0.2)
        stack = isotp.NotifierBasedCanStack(bus, notifier, address=ADDRESSES[ecu], params=params)
        try:
            with PatientClient(PythonIsoTpConnection(stack), config=_config()) as client:
                yield Foreigner(client, ecu)
        finally:
            notifier.stop()


@contextlib.contextmanager
def by_kernel(ecu: str, way: Way = "direct") -> Iterator[Foreigner]:
    """udsoncan on the kernel's ISO-TP."""
    transport = declared(ecu)["transport"]
    line = isotp.socket()
    line.set_fc_opts(bs=16, stmin=0)
    if transport["fd"]:
        line.set_ll_opts(mtu=72, tx_dl=transport["frame_bytes"], tx_flags=1)
    with PatientClient(
        IsoTPSocketConnection(bus_of(ecu, way), ADDRESSES[ecu], tpsock=line), config=_config()
    ) as client:
        yield Foreigner(client, ecu)


@contextlib.contextmanager
def by_doip(ecu: str, source: int = 0) -> Iterator[Foreigner]:
    """udsoncan on doipclient; each ECU has a tester of its own unless told otherwise."""
    target = LOGICAL[ecu]
    who = source or 0x0E00 + (target & 0xFF)
    with (
        DOIP("127.0.0.1", target, tcp_port=DOIP_PORT, client_logical_address=who) as doip,
        PatientClient(DOIP_CONNECTOR(doip), config=_config()) as client,
    ):
        yield Foreigner(client, ecu)


def connect(way: Way, ecu: str) -> contextlib.AbstractContextManager[Foreigner]:
    """A tester that comes that way."""
    return by_doip(ecu) if way == "doip" else by_library(ecu, way)


def request_of(payload: bytes) -> Request:
    """For what udsoncan has no function for."""
    return Request.from_payload(payload)


def open_bus(channel: str, *ids: int) -> can.BusABC:
    """python-can on one of the buses. It hears some identifiers, or all: then it must keep up with the traffic."""
    options: dict[str, Any] = {}
    if ids:
        options["can_filters"] = [
            {"can_id": can_id, "can_mask": 0x1FFFFFFF, "extended": can_id > 0x7FF} for can_id in ids
        ]
    if INTERFACE == "socketcan":
        return can.Bus(interface=INTERFACE, channel=channel, fd=True, **options)
    bus = can.Bus(interface=INTERFACE, channel=channel, fd=True, hop_limit=0, **options)
    inner: socket.socket = bus._multicast._socket  # type: ignore[attr-defined]  # python-can offers no other way
    inner.setsockopt(socket.IPPROTO_IP, IP_MULTICAST_ALL, 0)  # one group is one bus
    inner.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    return bus


def hear(bus: can.BusABC, can_id: int, timeout_s: float) -> can.Message | None:
    """The next frame with an identifier, as ``candump`` would show it."""
    deadline_s = time.monotonic() + timeout_s
    while (left_s := deadline_s - time.monotonic()) > 0:
        message = bus.recv(left_s)
        if message is not None and message.arbitration_id == can_id:
            return message
    return None


def reads(tester: Foreigner) -> bool:
    """Whether it answers what it is asked."""
    with contextlib.suppress(Exception):
        return tester.ask("22 F1 90")[0] == 0x62
    return False
