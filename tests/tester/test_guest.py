"""The tool on SocketCAN: every ECU of the simulated vehicle, each with its addressing."""

from __future__ import annotations

import pytest

from tests.tester.conftest import Uds
from tests.tester.support import simulated

# Foreign testers tour the same ECUs on vcan in tests/chain/diagnostics/test_tour.py, ours natively in test_commands.py.
pytestmark = [pytest.mark.guest, pytest.mark.long]


def test_all_ecus_on_vcan(offline: Uds, tmp_path_factory: pytest.TempPathFactory) -> None:
    with simulated(tmp_path_factory.mktemp("vcan"), on_vcan=True) as vehicle:
        arguments = [*vehicle.arguments[:-2], "--latency", "8000"]
        done = offline("did", "read", "F187", "0302", *arguments, "--json")
        assert done.status == 0, done.err
        parts = {ecu["ecu"]: {did["did"]: did for did in ecu["dids"]} for ecu in done.json["ecus"]}
        assert sorted(parts) == ["battery", "body", "brakes", "gearbox", "motor", "telematics"]
        assert all(dids["F187"]["values"][0]["value"].startswith("OR1-") for dids in parts.values())
        assert len(parts["battery"]["0302"]["data"]) == 2 * 4000, "a long answer in CAN FD frames"
        found = offline(
            "ecus", "--vehicle", "generic", "--via", "can:vcan3", "--range", "620-62F", *arguments[-2:], "--json"
        )
        assert [entry["address"] for entry in found.json["ecus"]] == ["6F1/629 extended 29"]
        written = offline("did", "write", "0300", "130", "--ecu", "motor", "--write", *arguments, "--json")
        assert written.json["after"] == "0082"
