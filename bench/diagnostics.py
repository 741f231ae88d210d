"""The whole diagnostic path, process by process: the simulated ECUs, the gateway, a tester.

A download of software and single reads by DoIP through the gateway, with the CPU time of gateway and tester, beside the
peer that has no gateway: udsoncan over can-isotp straight to the ECU. Then what diagnostics costs a gateway that idles:
six ECUs polled every minute, against the same gateway without diagnostics on the same traffic.

It needs vcan (``tests/vcan/run -- python -m bench.diagnostics``). There one slow processor runs everything: 1 MB would
take minutes, so 256 KiB are moved and figures are per megabyte.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from udsoncan import MemoryLocation

from simulator.ecu.flash_cli import made_up_payload
from simulator.ecu.flash_image import make_image
from tests.chain.diagnostics.car import Car, car, diagnostics_toml
from tests.chain.diagnostics.testers import Foreigner, by_doip, by_library
from tests.chain.diagnostics.tour import APPLICATION, enter_programming
from tests.vcan.plugin import has_vcan

Row = dict[str, Any]

MEGABYTE = 1 << 20
THROUGH_BYTES, PEER_BYTES = 256 * 1024, 24 * 1024
READS = 100
IDLE_S, IDLE_POLL_S = 25.0, 60.0
ECU = "battery"  # on CAN FD


def cpu_s(pid: int) -> float:
    """User and system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def gateway_cpu_s(made: Car) -> float:
    """Of the gateway's process."""
    assert made.process is not None
    return cpu_s(made.process.pid)


def download(tester: Foreigner, size: int) -> float:
    """Seconds of transferring a signed image, without erasing."""
    client = tester.client
    image = make_image(ECU, "5.0", made_up_payload("bench", size))
    enter_programming(tester)
    where = b"\x44" + APPLICATION.to_bytes(4, "big") + len(image).to_bytes(4, "big")
    client.start_routine(0xFF00, where)
    place = MemoryLocation(APPLICATION, len(image), address_format=32, memorysize_format=32)
    block = client.request_download(place).service_data.max_length - 2
    begun_s = time.monotonic()
    for at in range(0, len(image), block):
        client.transfer_data((at // block + 1) & 0xFF, image[at : at + block])
    took_s = time.monotonic() - begun_s
    client.request_transfer_exit()
    if client.start_routine(0x0202).service_data.routine_status_record[1]:
        raise RuntimeError("the ECU does not accept the image")
    tester.good("11 01")
    return took_s


def reads_ms(tester: Foreigner) -> float:
    """Milliseconds of a read of seventeen bytes."""
    tester.good("22 F1 90")
    begun_s = time.monotonic()
    for _ in range(READS):
        tester.good("22 F1 90")
    return (time.monotonic() - begun_s) * 1000 / READS


def measured(work: Callable[[], float], made: Car) -> tuple[float, float, float]:
    """The figure of ``work``, and CPU seconds of the tester and of the gateway."""
    own, theirs = time.process_time(), gateway_cpu_s(made)
    figure = work()
    return figure, time.process_time() - own, gateway_cpu_s(made) - theirs


def idle_ms(made: Car) -> float:
    """CPU milliseconds a second of the gateway while nobody asks for anything."""
    before, begun_s = gateway_cpu_s(made), time.monotonic()
    time.sleep(IDLE_S)
    return (gateway_cpu_s(made) - before) * 1000 / (time.monotonic() - begun_s)


def _idle_of(diagnostics: str) -> float:
    """Of a fresh gateway on the standing car's traffic."""
    with tempfile.TemporaryDirectory() as directory, car(Path(directory)) as made:
        made.prepare(diagnostics)
        made.start("workshop")
        return idle_ms(made)


def run() -> list[Row]:
    """Rows; none where there is no vcan."""
    if not has_vcan():
        return []
    with tempfile.TemporaryDirectory() as directory, car(Path(directory)) as made:
        made.prepare()
        made.start("workshop")
        with by_doip("motor") as tester:
            through_ms = reads_ms(tester)
        with by_library("motor") as tester:
            direct_ms = reads_ms(tester)
        with by_doip(ECU) as tester:
            took_s, own_s, gateway_s = measured(lambda: download(tester, THROUGH_BYTES), made)
        made.simulator.wait("the boot", lambda: made.simulator.ecu(ECU)["power"] == "on")
        with by_library(ECU) as tester:
            peer_s, peer_cpu_s, _ = measured(lambda: download(tester, PEER_BYTES), made)
    with_ms = _idle_of(diagnostics_toml(poll_s=IDLE_POLL_S))
    without_ms = _idle_of("")
    through, peer = MEGABYTE / THROUGH_BYTES, MEGABYTE / PEER_BYTES
    return [
        {"name": "flash by DoIP through the gateway, time", "value": took_s * through, "unit": "s/MB",
         "peer": f"udsoncan + can-isotp straight to the ECU {peer_s * peer:.1f} s/MB",
         "ratio": peer_s * peer / (took_s * through)},
        {"name": "flash by DoIP through the gateway, CPU of the gateway", "value": gateway_s * through,
         "unit": "s/MB", "peer": f"CPU of the peer as tester {peer_cpu_s * peer:.1f} s/MB",
         "ratio": peer_cpu_s * peer / max(gateway_s * through, 1e-9)},
        {"name": "flash by DoIP through the gateway, CPU of the tester", "value": own_s * through, "unit": "s/MB",
         "peer": f"{peer_cpu_s * peer:.1f} s/MB", "ratio": peer_cpu_s * peer / max(own_s * through, 1e-9)},
        {"name": "read of 17 bytes by DoIP through the gateway", "value": through_ms, "unit": "ms",
         "peer": f"straight to the ECU {direct_ms:.1f} ms", "ratio": direct_ms / through_ms},
        {"name": "gateway, 6 ECUs polled every minute, DoIP and connector open", "value": with_ms, "unit": "ms/s",
         "peer": f"without diagnostics {without_ms:.1f} ms/s", "ratio": without_ms / with_ms if with_ms else None},
    ]  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(run(), indent=2, ensure_ascii=False))
