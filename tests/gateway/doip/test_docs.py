"""The examples of the documents work."""

from __future__ import annotations

import re
import tomllib
from importlib import import_module

import msgspec
import pytest

from gateway.diag.config import DoipSection
from gateway.doip.core import SPOKEN_BY_TESTERS
from gateway.doip.datagrams import ANSWERS, ASKED_BY_UDP
from gateway.doip.messages import ActivationCode, DiagnosticNackCode, HeaderNackCode, PayloadType
from gateway.doip.model import vehicle_facts
from tests.gateway.doip.support import in_thread, section
from tests.support import ROOT

GUIDE = (ROOT / "docs" / "integrator" / "doip.md").read_text(encoding="utf-8")
REFERENCE = (ROOT / "docs" / "reference" / "doip.md").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


def test_each_example_of_a_configuration_is_sound() -> None:
    found = [tomllib.loads(text)["diagnostics"]["doip"] for text in blocks(GUIDE, "toml")]
    assert len(found) == 3
    for values in found:
        config = msgspec.convert(values, DoipSection)
        assert config.enabled
        vehicle_facts(config, "BENCH-1")


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")  # get_entity leaves its socket open
def test_the_first_success_succeeds(monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = blocks(GUIDE, "python")
    with in_thread(section()) as node:
        monkeypatch.setattr(import_module("doipclient.client"), "UDP_DISCOVERY", node.port)
        names: dict[str, object] = {}
        exec(example.replace("13400", str(node.port)), names)
        assert getattr(names["found"], "logical_address", None) == 0x1001
        names["tester"].close()  # type: ignore[attr-defined]  # an untyped client
        assert node.statistics().requests == 1


def test_the_reference_lists_every_type_and_code() -> None:
    sections = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", REFERENCE, re.M | re.S))
    listed = {name: {int(c, 16) for c in re.findall(r"^\| (0x.*?) \|", text, re.M) for c in c.split(", ")}
              for name, text in sections.items()}  # fmt: skip
    assert listed["Header nacks"] == set(HeaderNackCode)
    assert listed["Routing activation"] == set(ActivationCode)
    assert listed["Diagnostic messages"] == set(DiagnosticNackCode)
    assert listed["Messages"] == set(PayloadType) == ASKED_BY_UDP | ANSWERS | SPOKEN_BY_TESTERS | {
        PayloadType.ACTIVATION_RESPONSE
    }  # fmt: skip
