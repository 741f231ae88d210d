"""How connections are written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tester.connect import Bench, bare_ecu
from tester.errors import UsageError
from tester.vehicle import generic_vehicle
from tester.via import CanVia, DoipVia, parse_via


def test_can_is_socketcan() -> None:
    assert (
        parse_via("can:vcan0") == parse_via("socketcan:vcan0") == CanVia(bus="", interface="socketcan", channel="vcan0")
    )


def test_a_bus_may_be_named() -> None:
    via = parse_via("body=udp_multicast:239.74.163.4:43115")
    assert isinstance(via, CanVia)
    assert (via.bus, via.channel) == ("body", "239.74.163.4:43115")


def test_python_can_gets_its_options() -> None:
    via = parse_via("pcan:PCAN_USBBUS1?bitrate=500000&fd=true&f_clock=80000000")
    assert isinstance(via, CanVia)
    assert via.bitrate_bps == 500000
    assert dict(via.options) == {"fd": True, "f_clock": 80000000}


@pytest.mark.parametrize(
    ("text", "host", "port", "tls"),
    [
        ("doip:10.0.0.1", "10.0.0.1", 13400, False),
        ("doip:10.0.0.1:1234", "10.0.0.1", 1234, False),
        ("doips:gateway", "gateway", 3496, True),
        ("doip:[fe80::1]:99", "fe80::1", 99, False),
        ("doip:[::1]", "::1", 13400, False),
        ("doip:h?tls=1", "h", 3496, True),
    ],
)
def test_doip_hosts_and_ports(text: str, host: str, port: int, tls: bool) -> None:
    via = parse_via(text)
    assert isinstance(via, DoipVia)
    assert (via.host, via.port, via.tls) == (host, port, tls)


@pytest.mark.parametrize(
    "text",
    ["", "can", "can:", ":vcan0", "doip:", "doip:h:0", "doip:h:99999", "doip:h?source=0", "doip:h?sauce=1",
     "x=doip:h", "doip:h?version=7", "can:a?kernel=maybe", "can:a?bitrate=fast"],
)  # fmt: skip
def test_what_cannot_be_understood_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="--via"):
        parse_via(text)


@given(st.text(max_size=40))
def test_any_text_is_a_connection_or_a_usage_error(text: str) -> None:
    try:
        via = parse_via(text)
    except UsageError:
        return
    assert via.name


def test_a_bench_wants_one_way_to_each_bus() -> None:
    for texts, problem in (([], "no connection"), (["can:a", "can:b"], "same bus"), (["doip:a", "doip:b"], "one DoIP")):
        with pytest.raises(UsageError, match=problem):
            Bench(generic_vehicle(), [parse_via(text) for text in texts])


def test_ecus_may_be_named_by_address() -> None:
    found = bare_ecu("7A0", is_doip=False)
    assert found is not None
    assert (found.link.request_id, found.link.response_id) == (0x7A0, 0x7A8)
    found = bare_ecu("745/765", is_doip=False)
    assert found is not None
    assert (found.link.request_id, found.link.response_id) == (0x745, 0x765)
    found = bare_ecu("18DA28F1", is_doip=False)
    assert found is not None
    assert (found.link.addressing, found.link.target_address) == ("normal_fixed", 0x28)
    found = bare_ecu("0x1099", is_doip=True)
    assert found is not None
    assert found.link.logical_address == 0x1099
    assert bare_ecu("motor", is_doip=False) is None
    assert bare_ecu("123", is_doip=False) is None
