"""Updates put together: the only place that builds the updater's parts and connects them."""

from __future__ import annotations

import logging
import os
import random
import secrets
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path

import anyio
import msgspec
from anyio.abc import TaskStatus

from bootctl.backends import open_boot_control
from bootctl.files import RealFiles
from bootctl.model import BootControl, BootControlError
from dbc.manifest import Manifest
from gateway.can.observer import FrameObserver
from gateway.config import Config
from gateway.delta import open_delta
from gateway.diag.config import EcuConfig
from gateway.diag.ports import Tester
from gateway.diag.router import Router
from gateway.errors import ConfigError, GatewayError, TransportError
from gateway.firewall.ports import DiagnosticFirewall
from gateway.link.backoff import Backoff
from gateway.link.client import CloudClient
from gateway.runtime import Clock, Component, HealthBoard
from gateway.update.conditions import Conditions, Consent, ConsentDesk, SignalCondition
from gateway.update.control import ControlServer
from gateway.update.ecu import EcuInstaller
from gateway.update.ecu_key import FileSeedKey
from gateway.update.ecu_links import RouterLinks
from gateway.update.ecu_partial import PartialVerification
from gateway.update.ecu_reservation import EcuReservation
from gateway.update.ecu_set import EcuSet
from gateway.update.ecu_store import EcuStore
from gateway.update.engine import EnginePorts, UpdateEngine
from gateway.update.fetchers import Fetchers
from gateway.update.health import AnswerCheck, BusCheck, CommandCheck, ComponentsCheck, HealthWatch
from gateway.update.journal import Journal, Stage
from gateway.update.machine import Limits
from gateway.update.model import AttackError
from gateway.update.payload import PayloadInstaller
from gateway.update.payload_checks import payload_checks
from gateway.update.payload_trial import before_start
from gateway.update.plan import FIRMWARE, ROOTFS, KnownEcu
from gateway.update.ports import Fetcher, HealthCheck
from gateway.update.reboot import CommandRebooter
from gateway.update.records import Record
from gateway.update.reporting import ReportSender
from gateway.update.service import UpdateService
from gateway.update.signals import WatchedSignals
from gateway.update.slot import SlotInstaller
from gateway.update.slot_state import SlotContent
from gateway.update.window import local_zone
from gateway.uptane.download_store import DownloadStore
from gateway.uptane.fetch import FetchLimits
from gateway.uptane.fetch_cloud import CloudFetcher
from gateway.uptane.keys import open_signers
from gateway.uptane.manifest import AttackNotes, ManifestBuilder
from gateway.uptane.manifest_counters import COUNTERS_FILE, ReportCounters
from gateway.uptane.manifest_send import InventoryDesk, ManifestSender, inventory_of
from gateway.uptane.usb import DirectoryFetcher
from gateway.uptane.verifier import UptaneVerifier
from gateway.wire.uptane import InstalledImage

log = logging.getLogger(__name__)

NAME = "updater"
TESTER_PRESENT = b"\x3e\x00"
ANSWER_S = 2.0
LOOK_S = 1.0
NOTHING = InstalledImage(filename="", length=0, hashes={})
#: Set by ``outrider boot play``, where a reboot is one of processes.
BOOT_ID_VARIABLE = "OUTRIDER_BOOT_ID"


def begin_payload_trials(config: Config, base: Path, *, apart_from: Path) -> None:
    """Count this start for each payload on trial; to be called before any of them is read.

    Args:
        config: names them.
        base: of their paths.
        apart_from: the configuration, which is counted before it is read.

    Raises:
        InstallError: the disk does not answer.
    """
    for payload in config.update.payloads:
        path = base / payload.path
        if path.resolve() != apart_from and (why := before_start(path)):
            log.error("update_payload_put_back", extra={"why": why})


class SecureClock:
    """The time the verifier vouches for, and the machine's monotonic clock."""

    def __init__(self, verifier: UptaneVerifier, clock: Clock) -> None:
        self._verifier, self._clock = verifier, clock

    def utc_ns(self) -> int:
        """See ``Clock``."""
        return self._verifier.now_ns()

    def monotonic_ns(self) -> int:
        """See ``Clock``."""
        return self._clock.monotonic_ns()


class _Devices:
    """``SlotDevices`` of the configuration."""

    def __init__(self, devices: Mapping[str, str], base: Path) -> None:
        self._devices, self._base = devices, base

    def path(self, slot: str) -> Path:
        """See ``SlotDevices``."""
        if slot not in self._devices:
            raise ConfigError(f"slot {slot!r} has no device", where="$.update.slots.devices")
        return self._base / self._devices[slot]


class Updates:
    """An observer for the collector, and components to be started after diagnostics, in their order."""

    def __init__(self, config: Config, base: Path, *, manifest: Manifest, clock: Clock, health: HealthBoard) -> None:
        """Read the anchors of trust and what the configuration names; nothing is opened or made yet.

        Raises:
            ConfigError: a file is missing or wrong, a signal or bus is unknown.
        """
        self.config, self._base, self._section = config, base, config.update
        self._manifest, self._clock, self._health = manifest, clock, health
        section = self._section
        self.directory = base / section.directory
        self._roots = tuple(
            _anchor(base / getattr(section, key), f"$.update.{key}") for key in ("director_root", "image_root")
        )
        self._factory = _factory(base / section.factory) if section.factory else {}
        self.signals = WatchedSignals(manifest, [c.signal for c in section.conditions], section.health.buses, clock)
        self._zone = local_zone(section.timezone, section.utc_offset_min)
        self.known = _known(config)
        self._seed_key = FileSeedKey(section.ecus, base)
        for ecu in section.ecus:
            if ecu.security_key_file:
                self._seed_key.secret(ecu.name)
        self.service: UpdateService | None = None
        self.verifier: UptaneVerifier | None = None
        self.reservation: EcuReservation | None = None

    @property
    def observers(self) -> tuple[FrameObserver, ...]:
        """For the collector."""
        return (self.signals,)

    def components(
        self,
        client: CloudClient | None,
        router: Router | None,
        *,
        link_kind: Callable[[], str],
        stop: Callable[[], None],
    ) -> list[Component]:
        """Made inside the event loop.

        Args:
            client: the link; None: updates come from a stick only.
            router: to the ECUs; None: there are none.
            link_kind: what the link is now.
            stop: asks this process to end in order.

        Raises:
            GatewayError: keys, boot state or trusted metadata cannot be opened.
        """
        section, directory, files = self._section, self.directory, RealFiles()
        files.make_directory(directory)
        hardware = {name: ecu.hardware_id for name, ecu in self.known.items()}
        payloads = {payload.name for payload in section.payloads}
        own = {name: hardware_id for name, hardware_id in hardware.items() if name not in payloads}
        signers = open_signers(section.keys, own, self._base, files)
        verifier = self.verifier = UptaneVerifier(
            vehicle=self.config.vehicle,
            ecus=hardware,
            primary=section.primary,
            directory=directory / "metadata",
            director_root=self._roots[0],
            image_root=self._roots[1],
            clock=self._clock,
            build_time_ns=_build_time_ns(),
            time_max_age_ns=int(section.time_max_age_s * 1e9),
        )
        notes = AttackNotes(directory / "attacks.json")
        counters = ReportCounters(directory / COUNTERS_FILE, verifier.attested_ns)
        builder = ManifestBuilder(self.config.vehicle, section.primary, signers, counters, notes)
        clock = SecureClock(verifier, self._clock)
        store = DownloadStore(
            directory / "images", keep_free_bytes=section.keep_free_bytes, max_file_bytes=section.max_image_bytes
        )
        fetchers = self._fetchers(client)
        boot, slot = self._slot(directory, store, builder.saw)
        ecus = self._ecus(router, directory, store, fetchers, verifier, clock)
        sender = ReportSender(client.send_update_report, self._backoff()) if client is not None else _Silent()
        watch = HealthWatch(
            self._checks(router),
            within_s=section.health.within_s, steady_s=section.health.steady_s, clock=self._clock,
        )  # fmt: skip
        engine = UpdateEngine(
            EnginePorts(
                clock=clock,
                record=Record(files, directory / "journal.json", Journal),
                known=self.known,
                conditions=Conditions(
                    vehicle=[SignalCondition(c, self.signals) for c in section.conditions],
                    consent=ConsentDesk(Record(files, directory / "consent.json", Consent)),
                    zone=self._zone,
                    link=link_kind,
                    links=section.links,
                ),
                health=watch,
                rebooter=CommandRebooter(section.reboot_command, section.restart_command, stop),
                reporter=sender,
                fetcher=lambda: fetchers,
                floor=verifier.counter,
                raise_counters=verifier.raise_counters,
                backoff=self._backoff(),
                boot_id=_boot_id(),
                run_id=secrets.token_hex(8),
                boot=boot,
                slot=slot,
                ecus=ecus,
                payloads=self._payloads(directory, store),
                on_attack=builder.saw,
                limits=Limits(failures=section.attempts, within_s=section.conditions_within_s),
                report_s=section.report_s,
                ecu_image=ecus.installed if ecus is not None else None,
                keep=lambda wanted: store.keep([*wanted, *(ecus.needed() if ecus is not None else ())]),
            )
        )
        manifests: _Manifests | _NoManifests = _NoManifests()
        if client is not None:
            desk = InventoryDesk(client, directory / "inventory.json")
            inventory = inventory_of(section.primary, own, signers, self._factory)
            link = ManifestSender(
                client, builder, hardware=own, now_ns=clock.utc_ns, inventory=partial(desk.tell, inventory)
            )
            manifests = _Manifests(link, verifier, engine, payloads)
        service = self.service = UpdateService(
            engine=engine,
            verifier=verifier,
            fetchers=fetchers,
            manifests=manifests,
            primary=section.primary,
            known=self.known,
            backoff=self._backoff(),
            clock=clock,
            health=self._health,
            poll_s=section.poll_s,
            on_attack=builder.saw,
        )
        components: list[Component] = [_Watch(verifier, engine, self.signals, ecus)]
        if isinstance(sender, ReportSender):
            components.append(sender)
        components.append(service)
        if section.control_socket:
            components.append(ControlServer(self._base / section.control_socket, service))
        return components

    def _fetchers(self, client: CloudClient | None) -> Fetchers:
        section, limits = self._section, FetchLimits.of(self._section)
        online = CloudFetcher(client, limits, clock=self._clock) if client is not None else None
        if not section.offline_directory:
            return Fetchers(online)
        stick = DirectoryFetcher(self._base / section.offline_directory, self.config.vehicle, limits, clock=self._clock)
        return Fetchers(online, lambda: stick if stick.is_there() else None)

    def _slot(
        self,
        directory: Path,
        store: DownloadStore,
        on_attack: Callable[[AttackError, Collection[str]], None],
    ) -> tuple[BootControl | None, SlotInstaller | None]:
        slots, primary = self._section.slots, self._section.primary
        if not slots.devices:
            return None, None
        files = RealFiles()
        try:
            config = str(self._base / slots.config) if slots.config else ""
            boot = open_boot_control(slots.backend, config, slots.current, slots.devices, files)
            current = boot.read().current
        except BootControlError as error:
            raise ConfigError(str(error), where="$.update.slots") from error
        installer = SlotInstaller(
            ecu=primary,
            boot=boot,
            devices=_Devices(slots.devices, self._base),
            files=files,
            directory=directory,
            segment_bytes=self._section.segment_bytes,
            tries=slots.tries,
            store=store,
            open_delta=open_delta,
            on_attack=on_attack,
        )
        made = self._factory.get(primary)
        if made is not None and current and not installer.state.contents():
            installer.state.set_content(current, SlotContent(is_whole=True, image=made))
        return boot, installer

    def _ecus(
        self,
        router: Router | None,
        directory: Path,
        store: DownloadStore,
        fetchers: Fetchers,
        verifier: UptaneVerifier,
        clock: Clock,
    ) -> EcuSet | None:
        section = self._section
        if not section.ecus or router is None:
            return None

        def fetcher() -> Fetcher:
            return fetchers

        installer = EcuInstaller(
            section.ecus,
            links=RouterLinks(
                router, self.config.diagnostics.ecus, own_address=self.config.diagnostics.doip.logical_address
            ),
            images=store,
            store=EcuStore(directory / "ecus"),
            key=self._seed_key,
            limits=section.flashing,
            reservation=self.reservation,
            factory=self._factory,
            partial_check=PartialVerification(verifier.partial_bundle, self.config.vehicle, clock),
            fetcher=fetcher,
        )
        return EcuSet(installer)

    def _payloads(self, directory: Path, store: DownloadStore) -> PayloadInstaller | None:
        section = self._section
        if not section.payloads:
            return None
        checks = payload_checks(vehicle=self.config.vehicle, manifest=lambda: self._manifest, limits=self.config.limits)
        return PayloadInstaller(
            section.payloads, base=self._base, checks=checks, store=store, files=RealFiles(), directory=directory
        )

    def _checks(self, router: Router | None) -> list[HealthCheck]:
        health = self._section.health
        checks: list[HealthCheck] = [BusCheck(bus, self.signals.silent_s) for bus in health.buses]
        if router is not None:
            by_name = {ecu.name: ecu for ecu in self.config.diagnostics.ecus}
            for name in health.ecus:
                checks.append(AnswerCheck(f"ECU {name}", partial(_answers, router, by_name[name])))
        if health.cloud:
            checks.append(AnswerCheck("the update service", self._cloud_answers))
        if health.components:
            checks.append(ComponentsCheck(self._health, self._clock, ignored=(UpdateService.name,)))
        if health.command:
            checks.append(CommandCheck(health.command))
        return checks

    async def _cloud_answers(self) -> bool:
        return self.service is not None and await self.service.answers()

    def _backoff(self) -> Backoff:
        link = self.config.link
        return Backoff(link.backoff_first_s, max(link.backoff_max_s, 60.0), random.SystemRandom().random)

    def statistics(self) -> dict[str, object]:
        """For people and tests: plain values."""
        if self.service is None or self.verifier is None:
            return {}
        return {**self.service.statistics(), "uptane": self.verifier.statistics()}


class _Manifests:
    """Sends manifests, and sees that what is proved to run stays the lowest that is accepted."""

    def __init__(
        self, sender: ManifestSender, verifier: UptaneVerifier, engine: UpdateEngine, payloads: Collection[str]
    ) -> None:
        self._sender, self._verifier, self._engine, self._payloads = sender, verifier, engine, payloads

    async def send(self, ecus: Mapping[str, InstalledImage | None], details: Mapping[str, str]) -> None:
        """See ``ManifestPort``."""
        if self._engine.journal.stage in (Stage.IDLE, Stage.ENDED):
            running = {name: image.release_counter for name, image in ecus.items() if image is not None}
            await anyio.to_thread.run_sync(self._verifier.raise_counters, running)
        # A payload that never came is told as an empty place, so that the Director knows that there is one.
        places = {name: ecus.get(name) or NOTHING for name in self._payloads}
        await self._sender.send({**ecus, **places}, details)


class _NoManifests:
    """Nobody to tell."""

    async def send(self, ecus: Mapping[str, InstalledImage | None], details: Mapping[str, str]) -> None:
        """See ``ManifestPort``."""
        raise TransportError("there is no link")


class _Silent:
    """An ``UpdateReporter`` without a link."""

    def tell(self, report: object) -> None:
        """See ``UpdateReporter``."""


class _Watch:
    """Finishes sets of ECUs that a stop interrupted, listens to whole buses on trial, and ends the verifier."""

    name, drain_s, optional = "update-watch", 0.0, True

    def __init__(
        self, verifier: UptaneVerifier, engine: UpdateEngine, signals: WatchedSignals, ecus: EcuSet | None
    ) -> None:
        self._verifier, self._engine, self._signals, self._ecus = verifier, engine, signals, ecus

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """See ``Component``."""
        task_status.started()
        try:
            if self._ecus is not None and not self._engine.journal.is_open:
                await self._recover(self._ecus)
            while True:
                self._signals.is_on_trial = self._engine.journal.stage is Stage.TRIAL
                await anyio.sleep(LOOK_S)
        finally:
            self._verifier.close()

    @staticmethod
    async def _recover(ecus: EcuSet) -> None:
        """A set whose update has ended is put back, whatever the Director says today."""
        try:
            await ecus.recover()
        except GatewayError as error:
            log.error("update_set_not_whole", extra={"error": str(error)})


async def _answers(router: Router, ecu: EcuConfig) -> bool:
    """Whether an ECU answers a tester present."""
    channel = router.open_channel(Tester(port="gateway", address=0x1001, name=NAME), ecu.logical_address)
    try:
        with anyio.move_on_after(ANSWER_S):
            await channel.send(TESTER_PRESENT)
            return bool(await channel.receive())
        return False
    except GatewayError:
        return False
    finally:
        with anyio.CancelScope(shield=True):
            await channel.aclose()


def _known(config: Config) -> dict[str, KnownEcu]:
    """The gateway, its ECUs, its payloads: all that the Director may name."""
    section = config.update
    found = {section.primary: KnownEcu(section.hardware_id, ROOTFS)}
    found |= {ecu.name: KnownEcu(ecu.hardware_id, FIRMWARE) for ecu in section.ecus}
    return found | {p.name: KnownEcu(p.hardware_id or section.hardware_id, p.kind) for p in section.payloads}


def _anchor(path: Path, where: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}", where=where) from error


def _factory(path: Path) -> dict[str, InstalledImage]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, InstalledImage])
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"{path}: {error}", where="$.update.factory") from error


def _build_time_ns() -> int:
    """When this software was put into its image: no time is earlier."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    return int(epoch) * 1_000_000_000 if epoch.isdigit() else Path(__file__).stat().st_mtime_ns


def _boot_id() -> str:
    if given := os.environ.get(BOOT_ID_VARIABLE):
        return given
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def ecu_reservation(updates: Updates, inner: DiagnosticFirewall) -> EcuReservation:
    """The firewall with room for an update: while ECUs are written, nobody else writes to them."""
    ecus = updates.config.diagnostics.ecus
    updates.reservation = EcuReservation(inner, {ecu.name: ecu.logical_address for ecu in ecus})
    return updates.reservation
