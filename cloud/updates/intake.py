"""What vehicles tell: their inventory, their manifests, their progress. Who tells is known from the TLS certificate.

A manifest counts only when every check of D3 and D4 holds: each ECU of the inventory is in it once and no other, the
Primary signed the whole and each ECU its own report with the registered key, no report counter was seen before, and the
times are plausible. One that fails is dropped whole; the reason is kept and told, and nothing else changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import msgspec
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from cloud.auth.audit import Actor, record
from cloud.clock import Clock
from cloud.config import Updates
from cloud.db import Database
from cloud.errors import Conflict, InvalidInput, NotFound, Refused
from cloud.updates.director import finish, open_assignment
from cloud.updates.model import (
    OPEN_ASSIGNMENTS,
    AssignmentPlanRow,
    AssignmentRow,
    AssignmentState,
    ImageRow,
    PendingInventoryRow,
    VehicleEcuRow,
    VehiclePayloadRow,
    VehicleUpdateRow,
)
from cloud.updates.plan import Plan
from cloud.updates.tuf import S_NS
from gateway.wire.signing import SignatureError, check_key, verify_signed
from gateway.wire.uptane import (
    ATTACKS,
    MANIFEST_DOMAIN,
    MAX_ECUS,
    REPORT_DOMAIN,
    UPDATE_STATES,
    EcuKey,
    EcuReport,
    InstalledImage,
    Inventory,
    Signed,
    UpdateReport,
    VehicleManifest,
)

T = TypeVar("T")
MAX_NAME, MAX_TEXT, MAX_COUNTER = 64, 400, (1 << 62) - 1
ENDS = {
    "failed": AssignmentState.FAILED,
    "rolled_back": AssignmentState.ROLLED_BACK,
    "cancelled": AssignmentState.CANCELLED,
}


@dataclass(slots=True)
class IntakeStatistics:
    """Counts since the start."""

    manifests: int = 0
    refused: int = 0
    reports: int = 0
    attacks: int = 0


class Intake:
    """Takes what vehicles tell."""

    def __init__(self, db: Database, clock: Clock, config: Updates) -> None:
        self._db, self._clock, self._config = db, clock, config
        self.statistics = IntakeStatistics()

    async def take_inventory(self, vehicle_id: str, inventory: Inventory, address: str = "") -> None:
        """Register the vehicle's ECUs (D7). The same again changes nothing.

        Raises:
            InvalidInput: no sound inventory.
            Conflict: it differs from the registered one; an operator decides.
        """
        check_inventory(inventory)
        actor, now_ns = Actor(f"vehicle:{vehicle_id}", address), self._clock.now_ns()

        def work(session: Session) -> bool:
            rows = _ecus(session, vehicle_id)
            if not rows:
                self._register(session, vehicle_id, inventory, now_ns)
                record(session, actor, now_ns, "inventory.register", vehicle_id, _names(inventory))
                return True
            if _is_same(rows, inventory):
                session.execute(delete(PendingInventoryRow).where(PendingInventoryRow.vehicle_id == vehicle_id))
                return True
            content = msgspec.json.encode(inventory)
            pending = session.get(PendingInventoryRow, vehicle_id)
            if pending is None or pending.content != content:
                if pending is not None:
                    session.delete(pending)
                    session.flush()
                session.add(PendingInventoryRow(vehicle_id=vehicle_id, content=content, told_ns=now_ns))
                record(session, actor, now_ns, "inventory.differs", vehicle_id, _names(inventory))
            return False

        if not await self._db.write_in_thread(work):
            raise Conflict("these are not the ECUs that are registered; an operator must agree")

    async def accept_inventory(self, vehicle_id: str, actor: Actor) -> None:
        """Make the inventory that waits the registered one. Raises ``NotFound``: none waits."""
        now_ns = self._clock.now_ns()

        def work(session: Session) -> None:
            pending = session.get(PendingInventoryRow, vehicle_id)
            if pending is None:
                raise NotFound(f"no inventory of {vehicle_id!r} waits to be accepted")
            inventory = msgspec.json.decode(pending.content, type=Inventory)
            self._register(session, vehicle_id, inventory, now_ns)
            session.delete(pending)
            open_one = open_assignment(session, vehicle_id)
            if open_one is not None:
                session.execute(delete(AssignmentPlanRow).where(AssignmentPlanRow.assignment_id == open_one.id))
            record(session, actor, now_ns, "inventory.accept", vehicle_id, _names(inventory))

        await self._db.write_in_thread(work)

    async def refuse_inventory(self, vehicle_id: str, actor: Actor) -> None:
        """Forget the inventory that waits. Raises ``NotFound``."""

        def work(session: Session) -> None:
            pending = session.get(PendingInventoryRow, vehicle_id)
            if pending is None:
                raise NotFound(f"no inventory of {vehicle_id!r} waits to be accepted")
            session.delete(pending)
            record(session, actor, self._clock.now_ns(), "inventory.refuse", vehicle_id)

        await self._db.write_in_thread(work)

    def _register(self, session: Session, vehicle_id: str, inventory: Inventory, now_ns: int) -> None:
        """ECUs that keep their key keep what is known of them; their report counters above all (D4)."""
        for ecu in inventory.ecus:
            query = select(VehicleEcuRow.vehicle_id, VehicleEcuRow.ecu).where(VehicleEcuRow.key_id == ecu.key_id)
            for other, name in session.execute(query):
                if (other, name) != (vehicle_id, ecu.ecu):
                    raise Conflict(f"the key of {ecu.ecu} is that of another ECU; each has its own")
        old = {row.ecu: row for row in _ecus(session, vehicle_id)}
        for name in old.keys() - {ecu.ecu for ecu in inventory.ecus}:
            session.delete(old[name])
        for ecu in inventory.ecus:
            row = old.get(ecu.ecu)
            if row is None or row.key_id != ecu.key_id:
                if row is not None:
                    session.delete(row)
                    session.flush()
                row = VehicleEcuRow(vehicle_id=vehicle_id, ecu=ecu.ecu, registered_ns=now_ns, key_id=ecu.key_id)
                row.report_counter = row.report_time_ns = 0
                session.add(row)
                _set_image(row, ecu.image or InstalledImage(filename="", length=0, hashes={}), None)
            row.hardware_id, row.is_primary = ecu.hardware_id, ecu.is_primary
            row.method, row.public = ecu.method, ecu.public

    async def take_manifest(self, vehicle_id: str, signed: Signed) -> AssignmentRow | None:
        """Check a vehicle version manifest and note what it shows.

        Returns:
            The assignment that ended with it.

        Raises:
            Refused: dropped; the reason is kept.
        """
        now_ns = self._clock.now_ns()

        def work(session: Session) -> AssignmentRow | None:
            rows = {row.ecu: row for row in _ecus(session, vehicle_id)}
            reports, manifest = self.check(vehicle_id, signed, rows, now_ns)
            return self._note(session, vehicle_id, rows, reports, manifest, now_ns)

        def refuse(session: Session, reason: str) -> None:
            _state_row(session, vehicle_id).manifest_problem = reason[:MAX_TEXT]

        try:
            ended = await self._db.write_in_thread(work)
        except Refused as error:
            self.statistics.refused += 1
            reason = str(error)
            await self._db.write_in_thread(lambda session: refuse(session, reason))
            raise
        self.statistics.manifests += 1
        return ended

    def check(
        self, vehicle_id: str, signed: Signed, rows: dict[str, VehicleEcuRow], now_ns: int
    ) -> tuple[list[EcuReport], VehicleManifest]:
        """D3 and D4; touches no database.

        Raises:
            Refused: see there.
        """
        primary = next((row for row in rows.values() if row.is_primary), None)
        if primary is None:
            raise Refused("this vehicle has registered no ECUs")
        try:
            payload = verify_signed(signed, MANIFEST_DOMAIN, _Key(primary))
        except SignatureError as error:
            raise Refused(f"the Primary's signature: {error}") from error
        manifest = _decoded(payload, VehicleManifest, "the manifest")
        if manifest.vehicle != vehicle_id:
            raise Refused(f"it is of vehicle {manifest.vehicle[:MAX_NAME]!r}")
        if manifest.primary != primary.ecu:
            raise Refused(f"its Primary is {manifest.primary[:MAX_NAME]!r}, the registered one {primary.ecu!r}")
        reports = [self._report(vehicle_id, item, rows, now_ns) for item in manifest.reports[: MAX_ECUS + 1]]
        names = [report.ecu for report in reports]
        if len(set(names)) != len(names):
            raise Refused("an ECU reports twice")
        if missing := sorted(rows.keys() - set(names)):
            raise Refused(f"no report of {', '.join(missing)}")
        for name, image in manifest.payloads.items():
            if len(name) > MAX_NAME or not name.isprintable() or len(manifest.payloads) > MAX_ECUS:
                raise Refused("a payload's name is none, or there are too many")
            _check_image(image, name)
        return reports, manifest

    def _report(self, vehicle_id: str, signed: Signed, rows: dict[str, VehicleEcuRow], now_ns: int) -> EcuReport:
        told = _decoded(signed.payload, EcuReport, "a report")  # believed only below, when its ECU has signed it
        row = rows.get(told.ecu)
        if row is None:
            raise Refused(f"{told.ecu[:MAX_NAME]!r} is not in the inventory")
        try:
            verify_signed(signed, REPORT_DOMAIN, _Key(row))
        except SignatureError as error:
            raise Refused(f"the signature of {row.ecu}: {error}") from error
        if told.vehicle != vehicle_id:
            raise Refused(f"the report of {row.ecu} is of another vehicle")
        if told.hardware_id != row.hardware_id:
            raise Refused(f"{row.ecu} says hardware {told.hardware_id[:MAX_NAME]!r}, not {row.hardware_id!r}")
        if not row.report_counter < told.counter <= MAX_COUNTER:
            text = f"the counter of {row.ecu} is {told.counter}, and {row.report_counter} was seen: a replay"
            raise Refused(text)
        slack_ns = int(self._config.manifest_ahead_s * S_NS)
        if not max(1, row.report_time_ns - slack_ns) <= told.time_ns <= now_ns + slack_ns:
            raise Refused(f"the time in the report of {row.ecu} is not plausible")
        if told.attack and told.attack not in ATTACKS:
            raise Refused(f"{row.ecu} names an attack that is not known")
        _check_image(told.image, row.ecu)
        return told

    def _note(
        self,
        session: Session,
        vehicle_id: str,
        rows: dict[str, VehicleEcuRow],
        reports: list[EcuReport],
        manifest: VehicleManifest,
        now_ns: int,
    ) -> AssignmentRow | None:
        hashes = {report.image.hashes["sha256"] for report in reports if report.image.hashes}
        hashes |= {image.hashes["sha256"] for image in manifest.payloads.values() if image.hashes}
        known: dict[str, ImageRow] = {}
        for image in session.scalars(select(ImageRow).where(ImageRow.sha256.in_(hashes))):
            known.setdefault(image.sha256, image)
        running: dict[str, str] = {}
        attack = ""
        for report in reports:
            row = rows[report.ecu]
            _set_image(row, report.image, known.get(report.image.hashes.get("sha256", "")))
            row.report_counter, row.report_time_ns, row.reported_ns = report.counter, report.time_ns, now_ns
            row.attack, row.detail = report.attack, report.detail[:MAX_TEXT]
            running[report.ecu] = row.sha256
            attack = attack or report.attack
        self._note_payloads(session, vehicle_id, manifest, known, now_ns)
        running |= {name: image.hashes.get("sha256", "") for name, image in manifest.payloads.items()}
        state = _state_row(session, vehicle_id)
        state.manifest_ns, state.manifest_problem = now_ns, ""
        self.statistics.attacks += bool(attack)
        return self._judge(session, vehicle_id, running, attack, now_ns)

    def _note_payloads(
        self,
        session: Session,
        vehicle_id: str,
        manifest: VehicleManifest,
        known: dict[str, ImageRow],
        now_ns: int,
    ) -> None:
        query = select(VehiclePayloadRow).where(VehiclePayloadRow.vehicle_id == vehicle_id)
        old = {row.name: row for row in session.scalars(query)}
        for name in old.keys() - manifest.payloads.keys():
            session.delete(old[name])
        for name, image in manifest.payloads.items():
            row = old.get(name)
            if row is None:
                row = VehiclePayloadRow(vehicle_id=vehicle_id, name=name)
                session.add(row)
            row.reported_ns = now_ns
            _set_image(row, image, known.get(image.hashes.get("sha256", "")))

    def _judge(
        self, session: Session, vehicle_id: str, running: dict[str, str], attack: str, now_ns: int
    ) -> AssignmentRow | None:
        """An assignment has succeeded when all its ECUs run what it wants, told after it was offered."""
        assignment = open_assignment(session, vehicle_id)
        if assignment is None or assignment.state == AssignmentState.ASSIGNED:
            return None
        assignment.attack = attack or assignment.attack
        plan_row = session.get(AssignmentPlanRow, assignment.id)
        if plan_row is None:
            return None
        plan = msgspec.json.decode(plan_row.plan, type=Plan)
        if any(running.get(name) != sha256 for name, sha256 in plan.wanted.items()):
            return None
        finish(assignment, AssignmentState.SUCCEEDED, now_ns, assignment.detail)
        return assignment

    async def take_report(self, vehicle_id: str, report: UpdateReport) -> AssignmentRow | None:
        """Note an update's progress. Success is believed only of a manifest; failure is believed.

        Returns:
            The assignment that ended with it.

        Raises:
            InvalidInput: no sound report.
        """
        check_report(report)
        now_ns = self._clock.now_ns()
        self.statistics.reports += 1

        def work(session: Session) -> AssignmentRow | None:
            assignment_id = int(report.assignment) if report.assignment else None
            assignment = session.get(AssignmentRow, assignment_id) if assignment_id else None
            if assignment is None or assignment.vehicle_id != vehicle_id:
                return None  # of before a restored backup, or made up: nothing to say it of
            if assignment.state not in OPEN_ASSIGNMENTS and assignment.state != report.state:
                return None  # it has ended otherwise, and that stays
            state = _state_row(session, vehicle_id)
            if state.assignment_id is not None and state.assignment_id > assignment.id:
                return None  # a newer one has reported already
            state.assignment_id, state.state, state.reported_ns = assignment.id, report.state, now_ns
            state.percent, state.report = report.percent, msgspec.json.encode(report)
            if assignment.state not in OPEN_ASSIGNMENTS:
                return None
            assignment.attack = report.attack or assignment.attack
            if report.state in ENDS:
                finish(assignment, ENDS[report.state], now_ns, report.detail, report.attack)
                return assignment
            if assignment.state != AssignmentState.RUNNING:
                assignment.state, assignment.started_ns = AssignmentState.RUNNING, now_ns
            assignment.detail = report.detail[:MAX_TEXT]
            return None

        return await self._db.write_in_thread(work)

    async def erase(self, vehicle_id: str) -> None:
        """Nothing of a vehicle stays; its rows go with the vehicle's by foreign keys, and the keys' names now."""
        async with self._db.write() as session:
            for table in (AssignmentRow, VehicleEcuRow, VehiclePayloadRow, PendingInventoryRow, VehicleUpdateRow):
                await session.execute(delete(table).where(table.vehicle_id == vehicle_id))


@dataclass(frozen=True, slots=True)
class _Key:
    """A registered key as ``verify_signed`` wants it."""

    row: VehicleEcuRow

    @property
    def key_id(self) -> str:
        return self.row.key_id

    @property
    def method(self) -> str:
        return self.row.method

    @property
    def public(self) -> bytes:
        return self.row.public


def check_inventory(inventory: Inventory) -> None:
    """An inventory must be one. ``InvalidInput`` says what is wrong."""
    ecus = inventory.ecus
    if not 1 <= len(ecus) <= MAX_ECUS:
        raise InvalidInput(f"a vehicle has 1 to {MAX_ECUS} ECUs", where="ecus")
    if sum(ecu.is_primary for ecu in ecus) != 1:
        raise InvalidInput("exactly one ECU is the Primary", where="ecus")
    if len({ecu.ecu for ecu in ecus}) != len(ecus):
        raise InvalidInput("two ECUs have one name", where="ecus")
    if len({ecu.key_id for ecu in ecus}) != len(ecus):
        raise InvalidInput("two ECUs have one key; each has its own", where="ecus")
    for number, ecu in enumerate(ecus):
        _check_ecu(ecu, f"ecus[{number}]")


def _check_ecu(ecu: EcuKey, where: str) -> None:
    for text in (ecu.ecu, ecu.hardware_id):
        if not 1 <= len(text) <= MAX_NAME or not text.isprintable() or text != text.strip():
            raise InvalidInput(f"a name has 1 to {MAX_NAME} printable characters", where=where)
    try:
        check_key(ecu)
    except SignatureError as error:
        raise InvalidInput(str(error), where=where) from error
    if ecu.image is not None:
        try:
            _check_image(ecu.image, ecu.ecu)
        except Refused as error:
            raise InvalidInput(str(error), where=where) from error


def _check_image(image: InstalledImage, name: str) -> None:
    is_hash = all(len(text) in (64, 128) and set(text) <= set("0123456789abcdef") for text in image.hashes.values())
    is_sound = (
        is_hash
        and (not image.hashes or "sha256" in image.hashes)
        and len(image.hashes) <= 8
        and 0 <= image.length <= MAX_COUNTER
        and 0 <= image.release_counter <= MAX_COUNTER
        and len(image.filename) <= MAX_TEXT
        and len(image.version) <= 100
    )
    if not is_sound or len(image.hashes.get("sha256", "0" * 64)) != 64:
        raise Refused(f"the installed image of {name} is not described soundly")


def check_report(report: UpdateReport) -> None:
    """A report must be one. ``InvalidInput`` says what is wrong."""
    if report.state not in UPDATE_STATES:
        raise InvalidInput(f"{report.state[:40]!r} is no state of an update", where="state")
    if report.assignment and not (report.assignment.isascii() and report.assignment.isdigit()):
        raise InvalidInput("no number of an assignment", where="assignment")
    if len(report.assignment) > 18 or len(report.ecus) > 2 * MAX_ECUS:
        raise InvalidInput("too much of something", where="assignment")
    if not 0.0 <= report.percent <= 100.0:
        raise InvalidInput("0 to 100", where="percent")
    if report.attack and report.attack not in ATTACKS:
        raise InvalidInput("no attack of that name is known", where="attack")


def _decoded(payload: bytes, kind: type[T], what: str) -> T:
    try:
        return msgspec.json.decode(payload, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(f"{what} cannot be read: {str(error)[:200]}") from error


def _set_image(row: VehicleEcuRow | VehiclePayloadRow, image: InstalledImage, known: ImageRow | None) -> None:
    """What we know of the content goes before what is told of it."""
    row.filename, row.length = image.filename, image.length
    row.sha256 = image.hashes.get("sha256", "")
    row.version = known.version if known else image.version
    row.release_counter = max(image.release_counter, known.release_counter if known else 0)


def _ecus(session: Session, vehicle_id: str) -> list[VehicleEcuRow]:
    rows = session.scalars(select(VehicleEcuRow).where(VehicleEcuRow.vehicle_id == vehicle_id))
    return list(rows.all())


def _state_row(session: Session, vehicle_id: str) -> VehicleUpdateRow:
    row = session.get(VehicleUpdateRow, vehicle_id)
    if row is None:
        row = VehicleUpdateRow(vehicle_id=vehicle_id)
        session.add(row)
        session.flush()
    return row


def _is_same(rows: list[VehicleEcuRow], inventory: Inventory) -> bool:
    registered = {(row.ecu, row.hardware_id, row.is_primary, row.key_id) for row in rows}
    return registered == {(ecu.ecu, ecu.hardware_id, ecu.is_primary, ecu.key_id) for ecu in inventory.ecus}


def _names(inventory: Inventory) -> str:
    return ", ".join(f"{ecu.ecu} ({ecu.hardware_id}) {ecu.key_id[:12]}" for ecu in inventory.ecus)
