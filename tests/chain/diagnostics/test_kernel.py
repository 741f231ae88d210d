"""The kernel's ISO-TP everywhere: in the ECUs, in the gateway, and in can-utils and udsoncan as testers."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from simulator.model.parameters import VIN
from tests.chain.diagnostics.car import CONNECTOR, Car, car, diagnostics_toml
from tests.chain.diagnostics.testers import by_doip, by_kernel

# A whole car under emulation takes two minutes; the ECUs by the kernel's ISO-TP are in tests/simulator/ecu.
pytestmark = [pytest.mark.kernel_isotp, pytest.mark.long, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def by_the_kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Car]:
    """A standing car."""
    with car(tmp_path_factory.mktemp("kernel")) as made:
        made.prepare(diagnostics_toml(isotp="always"))
        made.start("workshop", isotp="kernel")
        yield made


def by_can_utils(interface: str, request: str) -> bytes:
    """The answer to a request of ``isotpsend``, by ``isotprecv``."""
    ends = ["-s", "7E0", "-d", "7E8"]
    with subprocess.Popen(["isotprecv", *ends, "-b", "16", interface], stdout=subprocess.PIPE, text=True) as receiver:
        for _ in range(5):
            subprocess.run(["isotpsend", *ends, interface], input=request, text=True, check=True)
            try:
                out, _ = receiver.communicate(timeout=10)
            except subprocess.TimeoutExpired:  # asked before the other socket was bound
                continue
            return bytes.fromhex(out)
        receiver.kill()
    raise AssertionError("no answer")


def test_can_utils_and_udsoncan_on_the_kernels_isotp(by_the_kernel: Car) -> None:
    vin = bytes.fromhex("62F190") + VIN.encode()
    assert by_can_utils("vcan0", "22 F1 90") == vin
    assert by_can_utils(CONNECTOR, "22 F1 90") == vin
    for ecu in ("battery", "brakes", "telematics"):
        with by_kernel(ecu) as tester:
            assert tester.good("22 F1 90") == vin
        with by_kernel(ecu, "connector") as tester:
            assert tester.good("22 F1 90") == vin
            assert tester.good("10 03")
            assert tester.good("2E F1 98" + b"FOREIGNER!".hex())
            assert tester.good("22 F1 98")[3:] == b"FOREIGNER!"
            assert tester.good("10 01")
    with by_doip("battery") as tester:
        assert tester.good("10 03")
        assert len(tester.good("22 03 02")) == 4003
        assert tester.good("10 01")
