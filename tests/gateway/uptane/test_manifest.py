"""Vehicle version manifests and the inventory: what is told, by whose key, under which number."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import anyio
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.errors import ConfigError, PeerError, TransportError
from gateway.link.client import Refusal, RefusedError
from gateway.update.model import AttackError
from gateway.uptane.keys import FileSigner
from gateway.uptane.manifest import UNKNOWN_IMAGE, AttackNotes, EcuState, ManifestBuilder
from gateway.uptane.manifest_counters import MILLISECOND_NS, ReportCounters
from gateway.uptane.manifest_send import InventoryAnswer, InventoryDesk, ManifestSender, inventory_of
from gateway.wire.signing import SignatureError, check_key, verify_signed
from gateway.wire.uptane import (
    ATTACKS,
    MANIFEST_DOMAIN,
    MAX_ECUS,
    MAX_MANIFEST_BYTES,
    REPORT_DOMAIN,
    EcuReport,
    InstalledImage,
    Inventory,
    Signature,
    Signed,
    VehicleManifest,
)
from tests.crash.disk import CrashFiles, PowerCut, crash_states

HARDWARE = {"gateway": "gateway-1", "brakes": "brake-7", "motor": "motor-3"}
FOLDER = Path("/data")
NOW_NS = 1_800_000_000_000_000_000
FIRMWARE = InstalledImage(filename="fw.bin", length=7, hashes={"sha256": "1" * 64}, release_counter=3, version="1.2")


def signers(*ecus: str) -> dict[str, FileSigner]:
    return {ecu: FileSigner(Ed25519PrivateKey.generate()) for ecu in ecus or HARDWARE}


class Vehicle:
    """What a builder needs, over a disk that a restart survives."""

    def __init__(self, disk: CrashFiles | None = None, attested_ns: int = 0) -> None:
        self.disk, self.attested_ns = disk or CrashFiles(), attested_ns
        self.keys = signers()
        self.restart()

    def restart(self) -> None:
        """Another process."""
        self.counters = ReportCounters(FOLDER / "counters", lambda: self.attested_ns, self.disk)
        self.notes = AttackNotes(FOLDER / "attacks", self.disk)
        self.builder = ManifestBuilder("VIN1", "gateway", self.keys, self.counters, self.notes)

    def build(self, *states: EcuState, payloads: Mapping[str, InstalledImage] | None = None) -> VehicleManifest:
        """A manifest, its signature checked."""
        signed = self.builder.build(states, payloads, time_ns=NOW_NS).signed
        return msgspec.json.decode(verify_signed(signed, MANIFEST_DOMAIN, self.keys["gateway"]), type=VehicleManifest)

    def reports(self, manifest: VehicleManifest) -> dict[str, EcuReport]:
        """The reports, the signature of each checked with the key of the ECU that it is of."""
        found = {}
        for signed, (ecu, key) in zip(manifest.reports, self.keys.items(), strict=True):
            found[ecu] = msgspec.json.decode(verify_signed(signed, REPORT_DOMAIN, key), type=EcuReport)
            assert found[ecu].ecu == ecu
        return found


def running(ecu: str, **more: str) -> EcuState:
    return EcuState(ecu=ecu, hardware_id=HARDWARE[ecu], image=FIRMWARE, **more)


# content


def test_v1_a_manifest_has_every_ecus_report_signed_by_it_and_the_primarys_signature_over_all() -> None:
    vehicle = Vehicle()
    scheme = InstalledImage(filename="s.json", length=1, hashes={})
    manifest = vehicle.build(*(running(ecu) for ecu in HARDWARE), payloads={"schemes": scheme})
    assert (manifest.vehicle, manifest.primary, manifest.payloads) == ("VIN1", "gateway", {"schemes": scheme})
    reports = vehicle.reports(manifest)
    assert list(reports) == list(HARDWARE)
    for ecu, report in reports.items():
        assert (report.vehicle, report.hardware_id, report.image) == ("VIN1", HARDWARE[ecu], FIRMWARE)
        assert (report.time_ns, report.attack, report.detail) == (NOW_NS, "", "")


def test_v1_a_report_is_not_another_ecus_and_no_manifest() -> None:
    vehicle = Vehicle()
    manifest = vehicle.build(running("motor"))
    motor = manifest.reports[2]
    for key, domain in ((vehicle.keys["brakes"], REPORT_DOMAIN), (vehicle.keys["motor"], MANIFEST_DOMAIN)):
        with pytest.raises(SignatureError):
            verify_signed(motor, domain, key)


def test_v1_an_ecu_that_does_not_answer_has_a_report_that_says_so() -> None:
    """Without one the Director would drop the whole manifest."""
    vehicle = Vehicle()
    silent = EcuState(ecu="motor", hardware_id="motor-3", image=None)
    reports = vehicle.reports(vehicle.build(running("gateway"), silent))
    for ecu in ("motor", "brakes"):  # one that was asked, one of which nothing is known
        assert reports[ecu].image == UNKNOWN_IMAGE
        assert "does not answer" in reports[ecu].detail


def test_v1_an_ecu_without_a_key_or_told_twice_is_our_own_mistake() -> None:
    vehicle = Vehicle()
    with pytest.raises(ValueError, match="twice"):
        vehicle.build(running("motor"), running("motor"))
    with pytest.raises(ValueError, match="no key"):
        vehicle.build(EcuState(ecu="door", hardware_id="d", image=None))
    for keys in (signers("motor"), {}, signers("gateway", *(str(n) for n in range(MAX_ECUS)))):
        with pytest.raises(ConfigError):
            ManifestBuilder("VIN1", "gateway", keys, vehicle.counters, vehicle.notes)


def test_v1_the_largest_vehicle_with_the_longest_texts_fits() -> None:
    vehicle = Vehicle()
    vehicle.keys = signers("gateway", *(f"ecu-{n}" for n in range(MAX_ECUS - 1)))
    vehicle.restart()
    image = InstalledImage(filename="ü" * 400, length=1, hashes={"sha256": "1" * 64, "sha512": "2" * 128})
    states = [EcuState(ecu=ecu, hardware_id="h" * 64, image=image, detail="𝄞" * 5000) for ecu in vehicle.keys]
    signed = vehicle.builder.build(states, time_ns=NOW_NS).signed
    assert len(msgspec.json.encode(signed)) <= MAX_MANIFEST_BYTES


def test_n9_a_failed_installation_is_reported_with_what_still_runs() -> None:
    vehicle = Vehicle()
    report = vehicle.reports(vehicle.build(running("motor", detail="failed: flash error at block 7")))["motor"]
    assert (report.image, report.detail) == (FIRMWARE, "failed: flash error at block 7")


# attacks


@pytest.mark.parametrize("attack", ATTACKS)
def test_f12_every_attack_is_named_in_the_manifest(attack: str) -> None:
    vehicle = Vehicle()
    vehicle.builder.saw(AttackError(attack, "CT3", "timestamp 3 after 4"))
    reports = vehicle.reports(vehicle.build())
    assert (reports["gateway"].attack, reports["gateway"].detail) == (attack, "CT3: timestamp 3 after 4")
    assert reports["motor"].attack == ""


def test_v8_slow_retrieval_is_told_until_a_manifest_was_taken_also_after_a_restart() -> None:
    vehicle = Vehicle()
    vehicle.builder.saw(AttackError("slow retrieval", "V8", "3 bytes in 87 s"), ["motor"])
    assert vehicle.reports(vehicle.build())["motor"].attack == "slow retrieval"
    vehicle.restart()
    told = vehicle.builder.build([], time_ns=NOW_NS)
    assert told.noted["motor"].attack == "slow retrieval"
    vehicle.builder.saw(AttackError("rollback", "CT3", "later"), ["brakes"])  # while it travelled
    vehicle.builder.delivered(told)
    vehicle.restart()
    reports = vehicle.reports(vehicle.build())
    assert (reports["motor"].attack, reports["brakes"].attack) == ("", "rollback")


def test_f12_an_attack_on_a_full_disk_is_still_told_by_this_process() -> None:
    vehicle = Vehicle(CrashFiles(capacity_bytes=100))
    vehicle.builder.saw(AttackError("freeze", "CT4", "x" * 1000))
    vehicle.disk.capacity_bytes = 10_000
    assert vehicle.reports(vehicle.build())["gateway"].attack == "freeze"


def test_f12_damaged_notes_do_not_keep_a_vehicle_from_reporting() -> None:
    for damage in (b"", b"[]", b"\xff", b'{"attacks": {"motor": 7}}'):
        disk = CrashFiles()
        disk.add_file(FOLDER / "attacks", damage)
        vehicle = Vehicle(disk)
        assert vehicle.reports(vehicle.build())["motor"].attack == ""


def test_f12_an_attack_without_a_name_of_the_standard_is_our_own_mistake() -> None:
    with pytest.raises(ValueError, match="no attack"):
        Vehicle().notes.note("motor", "alien", "")


# numbers


def counted(vehicle: Vehicle) -> list[int]:
    return [report.counter for report in vehicle.reports(vehicle.build()).values()]


def test_d4_numbers_rise_over_manifests_and_restarts() -> None:
    vehicle = Vehicle()
    seen: list[int] = []
    for _ in range(5):
        seen += counted(vehicle) + counted(vehicle)
        vehicle.restart()
    assert seen == sorted(set(seen))


def test_d4_many_reports_cost_one_write() -> None:
    vehicle = Vehicle()
    for _ in range(300):
        vehicle.counters.take(3)
    assert sum(call.kind == "sync" for call in vehicle.disk.log) == 1


def test_d4_no_number_repeats_over_a_power_cut_at_any_point() -> None:
    disk = CrashFiles()
    start = disk.snapshot()
    used: dict[int, int] = {0: 0}  # calls on the disk when these numbers were out in the world
    for _ in range(3):
        counters = ReportCounters(FOLDER / "counters", lambda: 0, disk, block=4)
        for _ in range(4):
            last = counters.take(3)[-1]
            used[len(disk.log)] = last
    cuts = 0
    for state in crash_states(start, disk.log):
        out = max(last for calls, last in used.items() if calls <= state.calls)
        assert ReportCounters(FOLDER / "counters", lambda: 0, state.files).take(1)[0] > out, state.what
        cuts += 1
    assert cuts >= 50


@pytest.mark.parametrize("damage", [None, b"", b"garbage", b"\x00" * 20, b'{"reserved": "x"}'])
def test_d4_a_lost_or_damaged_file_does_not_bring_old_numbers_back(damage: bytes | None) -> None:
    vehicle = Vehicle(attested_ns=NOW_NS)
    before = [number for _ in range(20) for number in counted(vehicle)]
    path = FOLDER / "counters"
    vehicle.disk.remove(path) if damage is None else vehicle.disk.add_file(path, damage)
    vehicle.attested_ns += 60_000 * MILLISECOND_NS  # a minute later
    vehicle.restart()
    assert counted(vehicle)[0] > max(before)


def test_d4_a_file_from_a_backup_does_not_bring_old_numbers_back() -> None:
    vehicle = Vehicle(attested_ns=NOW_NS)
    counted(vehicle)
    backup = vehicle.disk.read(FOLDER / "counters")
    vehicle.restart()
    before = counted(vehicle)
    vehicle.disk.add_file(FOLDER / "counters", backup)
    vehicle.attested_ns += 60_000 * MILLISECOND_NS
    vehicle.restart()
    assert counted(vehicle)[0] > max(before)


def test_d4_lost_numbers_jump_as_soon_as_a_time_is_attested() -> None:
    vehicle = Vehicle()
    assert max(counted(vehicle)) < 100
    vehicle.attested_ns = NOW_NS
    assert counted(vehicle)[0] > NOW_NS // MILLISECOND_NS
    vehicle.attested_ns *= 2  # from then on the numbers go their own way
    assert counted(vehicle)[0] < NOW_NS // MILLISECOND_NS + 100_000


def test_d4_numbers_that_cannot_be_reserved_are_not_used() -> None:
    vehicle = Vehicle(CrashFiles(capacity_bytes=0))
    with pytest.raises(TransportError):
        vehicle.build()
    vehicle.disk.capacity_bytes = 1000
    vehicle.disk.broken[FOLDER / "counters"] = 5
    vehicle.restart()
    with pytest.raises(TransportError):
        vehicle.build()


def test_d4_a_cut_in_the_middle_of_a_reservation_uses_nothing() -> None:
    vehicle = Vehicle()

    def cut(number: int, call: object) -> None:
        raise PowerCut

    vehicle.disk.before = cut
    with pytest.raises(PowerCut):
        vehicle.build()


# delivery


class Link:
    """A cloud that may refuse."""

    def __init__(self) -> None:
        self.manifests: list[Signed] = []
        self.inventories: list[Inventory] = []
        self.error: Exception | None = None

    async def send_vehicle_manifest(self, signed: Signed) -> None:
        """See ``ManifestLink``."""
        self.manifests.append(signed)
        if self.error is not None:
            raise self.error

    async def send_inventory(self, inventory: Inventory) -> None:
        """See ``ManifestLink``."""
        if self.error is not None:
            raise self.error
        self.inventories.append(inventory)


def refused(status: int, refusal: Refusal = Refusal.OTHER) -> RefusedError:
    return RefusedError(refusal, status, "because")


def test_d4_a_manifest_is_never_sent_twice_each_attempt_has_new_numbers() -> None:
    vehicle, link = Vehicle(), Link()
    sender = ManifestSender(link, vehicle.builder, hardware=HARDWARE, now_ns=lambda: NOW_NS)
    vehicle.builder.saw(AttackError("freeze", "CT4", "old"))
    for error in (TransportError("gone"), refused(503, Refusal.LATER), refused(403, Refusal.IDENTITY)):
        link.error = error
        with pytest.raises(TransportError):
            anyio.run(sender.send, {"motor": FIRMWARE, "schemes": FIRMWARE}, {})
    for status in (422, 400):
        link.error = refused(status)
        with pytest.raises(PeerError, match="because"):
            anyio.run(sender.send, {}, {})
    link.error = None
    for _ in range(2):
        anyio.run(sender.send, {"motor": FIRMWARE, "schemes": FIRMWARE, "old": None}, {"motor": "failed: x"})
    numbers: list[int] = []
    for signed in link.manifests:
        manifest = msgspec.json.decode(signed.payload, type=VehicleManifest)
        reports = vehicle.reports(manifest)
        numbers += [report.counter for report in reports.values()]
        is_last = signed is link.manifests[-1]
        assert reports["gateway"].attack == ("" if is_last else "freeze")  # until one was taken
    assert numbers == sorted(set(numbers))
    assert manifest.payloads == {"schemes": FIRMWARE}
    assert (reports["motor"].image, reports["motor"].detail) == (FIRMWARE, "failed: x")
    assert reports["brakes"].hardware_id == "brake-7"


def test_p2_the_inventory_tells_every_ecu_with_its_own_key() -> None:
    keys = signers()
    inventory = inventory_of("gateway", HARDWARE, keys, {"motor": FIRMWARE})
    assert [ecu.ecu for ecu in inventory.ecus] == sorted(HARDWARE)
    for ecu in inventory.ecus:
        check_key(ecu)
        assert (ecu.key_id, ecu.hardware_id) == (keys[ecu.ecu].key_id, HARDWARE[ecu.ecu])
        assert ecu.is_primary == (ecu.ecu == "gateway")
    assert len({ecu.key_id for ecu in inventory.ecus}) == len(HARDWARE)
    motor = keys["motor"].sign(REPORT_DOMAIN, b"x")
    assert isinstance(motor, Signature)
    assert verify_signed(Signed(payload=b"x", signatures=(motor,)), REPORT_DOMAIN, inventory.ecus[2]) == b"x"


def test_p2_the_inventory_is_told_once_and_again_when_an_ecu_or_a_key_changes() -> None:
    keys, link, disk = signers(), Link(), CrashFiles()

    def tell(
        hardware: Mapping[str, str] = HARDWARE, *, again: bool = False, **image: InstalledImage
    ) -> InventoryAnswer:
        desk = InventoryDesk(link, FOLDER / "told", disk)

        async def work() -> InventoryAnswer:
            return await desk.tell(inventory_of("gateway", hardware, keys, image), again=again)

        return anyio.run(work)

    link.error = TransportError("gone")
    with pytest.raises(TransportError):
        tell()
    link.error = None
    assert [tell(), tell(), tell(motor=FIRMWARE)] == [InventoryAnswer.TAKEN] + [InventoryAnswer.KNOWN] * 2
    assert tell({**HARDWARE, "motor": "motor-4"}) is InventoryAnswer.TAKEN
    assert tell() is InventoryAnswer.TAKEN
    keys["motor"] = FileSigner(Ed25519PrivateKey.generate())
    link.error = refused(409)
    assert [tell(), tell()] == [InventoryAnswer.CONFLICT] * 2  # until an operator agrees
    link.error = None
    assert [tell(), tell()] == [InventoryAnswer.TAKEN, InventoryAnswer.KNOWN]
    assert tell(again=True) is InventoryAnswer.TAKEN
    link.error = refused(400)
    with pytest.raises(PeerError):
        tell(again=True)
    link.error = None
    disk.add_file(FOLDER / "told", b"damaged")
    assert tell() is InventoryAnswer.TAKEN


def test_p2_the_inventory_goes_before_the_first_manifest() -> None:
    vehicle, link = Vehicle(), Link()
    desk = InventoryDesk(link, FOLDER / "told", vehicle.disk)
    inventory = inventory_of("gateway", HARDWARE, vehicle.keys)

    async def tell() -> InventoryAnswer:
        return await desk.tell(inventory)

    sender = ManifestSender(link, vehicle.builder, hardware=HARDWARE, now_ns=lambda: NOW_NS, inventory=tell)
    link.error = TransportError("gone")
    with pytest.raises(TransportError):
        anyio.run(sender.send, {}, {})
    assert not link.manifests
    link.error = None
    anyio.run(sender.send, {}, {})
    assert (len(link.inventories), len(link.manifests)) == (1, 1)
