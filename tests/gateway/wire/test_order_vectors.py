"""Orders and results as the first version sent them are read for ever."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import msgspec

from gateway.command.orders import Memory, OrderGate
from gateway.wire.diagnostics import DiagnosticOrder, DiagnosticResult, Step, StepResult
from gateway.wire.orders import SignedOrder

VECTORS = Path(__file__).parents[2] / "vectors"
NOW_NS = 1_700_000_000_000_000_000


def test_the_first_signed_order_verifies_and_means_what_it_meant() -> None:
    vector = json.loads((VECTORS / "order-1.json").read_text())
    signed = msgspec.json.decode(json.dumps(vector["signed"]), type=SignedOrder)
    assert signed.payload == base64.b64decode(vector["signed"]["payload"])
    gate = OrderGate("WOUT1DR1VE0000042", bytes.fromhex(vector["public_key"]), Memory(), ["diagnostics"])
    order = gate.judge(signed, NOW_NS, 0)
    assert (order.id, order.issued_ns, order.expires_ns) == (signed.id, NOW_NS, NOW_NS + 600_000_000_000)
    assert msgspec.json.decode(order.body, type=DiagnosticOrder) == DiagnosticOrder(
        steps=(
            Step(do="read_dtcs", ecu="*"),
            Step(do="start_routine", ecu="battery", parameter=0x0301, data=b"\xaa\x55"),
        ),
        stop_on_error=True,
        requested_by="user:alice",
    )


def test_the_first_result_means_what_it_meant() -> None:
    content = (VECTORS / "result-1.json").read_bytes()
    result = msgspec.json.decode(content, type=DiagnosticResult)
    assert msgspec.json.encode(result) == content.strip()
    assert (result.state, result.results[0]) == (
        "done",
        StepResult(step=0, ecu="battery", outcome="ok", dtcs=((0x0AA616, 0x2F),)),
    )
    assert (result.results[1].nrc, result.results[1].data, result.results[1].values) == (0x22, b"\x01", {"a": "b"})
