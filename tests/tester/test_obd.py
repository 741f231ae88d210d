"""The generic reader against simulated ECUs, and its table against values worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.uds.client import UdsClient
from gateway.wire.dtc import parse_dtc
from tester.obd import ObdReader
from tester.obd_table import (
    has_next,
    read_monitor,
    read_pid,
    read_readiness,
    split_answer,
    supported,
)
from tests.gateway.uds.test_with_ecus import SimulatedEcu, fail, on


@pytest.mark.parametrize(
    ("pid", "data", "value", "unit"),
    [
        (0x04, "80", 50.196078, "%"),
        (0x05, "7B", 83, "degC"),
        (0x06, "80", 0, "%"),
        (0x0C, "1AF8", 1726, "rpm"),
        (0x0D, "FF", 255, "km/h"),
        (0x0E, "80", 0, "deg"),
        (0x10, "0FA0", 40, "g/s"),
        (0x23, "0001", 10, "kPa"),
        (0x32, "FFFC", -1, "Pa"),
        (0x42, "3039", 12.345, "V"),
        (0x44, "8000", 1, ""),
        (0x51, "08", "electric", ""),
        (0x51, "FE", "0xFE", ""),
        (0x5E, "0014", 1, "L/h"),
        (0x62, "7D", 0, "%"),
        (0xA6, "00012345", 7456.5, "km"),
    ],
)
def test_values_of_parameter_identifiers(pid: int, data: str, value: object, unit: str) -> None:
    reading = read_pid(pid, bytes.fromhex(data))[0]
    assert (reading.value, reading.unit) == (value, unit)


def test_two_values_in_one_identifier() -> None:
    assert [(r.value, r.unit) for r in read_pid(0x14, b"\x5a\x80")] == [(0.45, "V"), (0, "%")]


def test_what_the_table_does_not_know_stays_hexadecimal() -> None:
    assert read_pid(0xEE, b"\x01\x02")[0].text == "01 02"
    assert read_pid(0x0C, b"\x01")[0].text == "01"


def test_support_masks() -> None:
    assert supported(0x00, bytes.fromhex("BE1FA813"))[:3] == (0x01, 0x03, 0x04)
    assert has_next(bytes.fromhex("BE1FA813"))
    assert supported(0x20, bytes.fromhex("80000000")) == (0x21,)


def test_readiness_of_both_kinds_of_engine() -> None:
    spark = read_readiness(bytes.fromhex("83 27 21 01"))
    assert (spark.lamp, spark.codes, spark.ignition) == (True, 3, "spark")
    assert spark.monitors["components"] is True
    assert spark.monitors["fuel system"] is False
    assert spark.monitors == {"misfire": True, "fuel system": False, "components": True, "catalyst": False,
                              "oxygen sensor": True}  # fmt: skip
    assert read_readiness(bytes.fromhex("000F4800")).monitors["particulate filter"] is True


def test_results_of_monitors() -> None:
    [good, bad, never] = read_monitor(bytes.fromhex("E181 0A 0100 0000 0200  E182 81 FFFF 0000 0002  E183 0B 0000 0000 0000"))  # fmt: skip # noqa: E501
    assert (good.passed, round(good.value, 4), good.unit) == (True, 0.0312, "V")
    assert (bad.passed, bad.value) == (False, -1)
    assert never.passed is None


@given(st.binary(max_size=40))
def test_no_answer_is_too_strange_to_split(data: bytes) -> None:
    found, rest = split_answer(data)
    assert sum(1 + len(value) for _, value in found) + len(rest) == len(data)


def test_the_summary_of_the_motor() -> None:
    async def work(client: UdsClient, ecu: SimulatedEcu) -> None:
        fail(ecu, parse_dtc("P0A93-00"))
        summary = await ObdReader(client).summary()
        assert summary.vin.startswith("0UTR1")
        assert len(summary.vin) == 17
        assert summary.calibrations
        assert len(summary.verifications[0]) == 8
        assert [code.code for code in summary.pending] == ["P0A93"]
        assert "cool" in summary.pending[0].text.lower()
        assert summary.readiness is not None
        assert "components" in summary.readiness.monitors
        by_pid = {reading.pid: reading for reading in summary.values}
        assert by_pid[0x42].text == "13.8 V"
        assert by_pid[0x51].value == "electric"
        assert {monitor.monitor for monitor in summary.monitors} == {0xE1, 0xE2}
        assert summary.silent == ()

    on("motor", work)


def test_a_freeze_frame_tells_the_code_that_stored_it() -> None:
    async def work(client: UdsClient, ecu: SimulatedEcu) -> None:
        assert await ObdReader(client).frame() == (None, ())
        for _ in range(2):
            fail(ecu, parse_dtc("P0A93-00"))
        code, values = await ObdReader(client).frame()
        if code is not None:
            assert code.code == "P0A93"
            assert values

    on("motor", work)


def test_an_ecu_without_obd_is_no_error_of_the_table() -> None:
    async def work(client: UdsClient, _ecu: SimulatedEcu) -> None:
        reader = ObdReader(client)
        assert await reader.numbers(0x01) == []
        assert await reader.readiness() is None

    on("body", work)
