"""Programming and faults with the state in a folder: the simulation is killed and started again."""

from __future__ import annotations

from pathlib import Path

import pytest

from simulator.ecu.dtc_unit import fault_unit
from simulator.ecu.flash_store import Verdict
from simulator.ecu.storage import StorageError
from tests.simulator.ecu.support import Bench
from tests.simulator.ecu.test_flash import BASE, Flasher, image


def _again(folder: Path) -> Flasher:
    """What a new process finds in the folder."""
    return Flasher(folder=folder)


def test_new_software_is_there_after_a_restart(tmp_path: Path) -> None:
    ecu = Flasher(folder=tmp_path).programming()
    assert ecu.flash(image()) == "71 01 02 02 00 00"
    ecu.nv.save()
    assert _again(tmp_path).version() == "02.00.00"


def test_half_programmed_software_is_not_started_by_a_new_process(tmp_path: Path) -> None:
    content = image(b"x" * 800)
    ecu = Flasher(folder=tmp_path).programming()
    ecu.erase()
    ecu.request(BASE, len(content))
    ecu.blocks(content[:512])
    ecu.nv.save()
    found = _again(tmp_path)
    assert found.context.boot_mode
    assert found.version() == ""
    assert found.programming().flash(content) == "71 01 02 02 00 00"
    found.restart()
    assert found.version() == "02.00.00"


@pytest.mark.parametrize("lost", ["values", "bytes"])
def test_a_kill_between_the_two_files_of_a_save_does_not_start_what_was_not_checked(tmp_path: Path, lost: str) -> None:
    ecu = Flasher(folder=tmp_path).programming()
    ecu.flash(image(b"one"))
    ecu.nv.save()
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    ecu.flash(image(b"two two", "03.00.00"))
    ecu.nv.save()
    [path] = [p for p in before if (p.suffix == ".bin") == (lost == "bytes")]
    path.write_bytes(before[path])
    found = _again(tmp_path)
    assert found.context.boot_mode
    found.programming()
    assert found.flash(image(b"three", "04.00.00")) == "71 01 02 02 00 00"
    found.restart()
    assert found.version() == "04.00.00"


def test_a_spoilt_mark_is_an_invalid_one(tmp_path: Path) -> None:
    for mark in (
        3,
        {},
        {"valid": True, "bytes": "x"},
        {"valid": True, "bytes": 9},
        {"valid": True, "bytes": -1, "crc32": 0},
    ):
        ecu = Flasher()
        ecu.nv.set("flash.application", mark)
        ecu.power_cycle()
        assert ecu.context.boot_mode, mark
        ecu.programming()
        assert ecu.one("31 01 FF 01") == f"71 01 FF 01 00 {Verdict.INCOMPLETE:02X}"
        assert ecu.flash(image()) == "71 01 02 02 00 00"


def test_codes_are_there_after_a_restart(tmp_path: Path) -> None:
    ecu = Bench("motor", folder=tmp_path)
    fault_unit(ecu.context).report(0x0A9300, failed=True)
    ecu.advance(2.0)  # what is non-volatile is written about once a second
    asked = ("19 02 FF", "19 06 0A 93 00 FF", "19 04 0A 93 00 FF", "19 0B", "19 15", "03", "0A", "02 02 00")
    before = [ecu.one(request) for request in asked]
    found = Bench("motor", folder=tmp_path)
    after = [found.one(request) for request in asked]
    assert before[1].startswith("59 06 0A 93 00 AF")
    # The debounce (extended data record 05) is volatile.
    assert [a.replace("05 7F", "05 00") for a in before] == [a.replace("05 7F", "05 00") for a in after]


def test_a_torn_file_of_values_is_told(tmp_path: Path) -> None:
    ecu = Bench("motor", folder=tmp_path)
    fault_unit(ecu.context).report(0x0A9300, failed=True)
    ecu.nv.save()
    path = tmp_path / "motor.nv"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(StorageError, match=r"motor\.nv"):
        Bench("motor", folder=tmp_path)
