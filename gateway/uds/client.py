"""The UDS client: every service of ISO 14229-1 as a typed method.

What each service says and answers is in ``codec``; when to wait, repeat and give up in ``exchange``; this module only
puts them together. All methods raise what ``Conversation.ask`` does.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Sequence

from gateway.uds.codec import authentication, control, data, dtc, events, load, scaling
from gateway.uds.codec import secured as secured_data
from gateway.uds.codec.query import Query
from gateway.uds.conversation import Conversation
from gateway.uds.errors import NegativeResponse
from gateway.uds.names import NEGATIVE, Nrc, Reset

#: From (level, seed) to key.
KeyFunction = Callable[[int, bytes], bytes]


class UdsClient(Conversation):
    """One ECU's services. Use it as an async context manager to have sessions kept alive by themselves."""

    async def raw(self, pdu: bytes) -> bytes | None:
        """Any request; its positive answer whole, None when suppressed."""
        return await self.request(pdu)

    async def _either(self, query: Query[None], *, suppress: bool) -> None:
        await (self.tell(query) if suppress else self.ask(query))

    # Diagnostic and communication management.

    async def session(self, kind: int) -> control.SessionStarted:
        """Enter a session (``Session``); its timing is in force from then on."""
        return await self.ask(control.session(kind))

    async def reset(self, kind: int = Reset.HARD) -> int | None:
        """Reset the ECU; seconds until power-down where it tells. It is deaf while it boots."""
        return await self.ask(control.reset(kind))

    async def request_seed(self, level: int, record: bytes = b"") -> bytes:
        """The seed of an (odd) security level; zeros: open already."""
        return await self.ask(control.request_seed(level, record))

    async def send_key(self, level: int, key: bytes) -> None:
        """The key for the seed of ``level - 1``."""
        await self.ask(control.send_key(level, key))

    async def security_access(self, level: int, key_function: KeyFunction, record: bytes = b"") -> bool:
        """Open a security level (odd); False when it was open already."""
        seed = await self.request_seed(level, record)
        if not any(seed):
            return False
        await self.send_key(level + 1, key_function(level, seed))
        return True

    async def authenticate(self, step: Query[authentication.Authentication]) -> authentication.Authentication:
        """One step of 0x29, made by a function of ``codec.authentication``."""
        return await self.ask(step)

    async def authentication_configuration(self) -> authentication.Authentication:
        """Which way of authentication the ECU wants."""
        return await self.ask(authentication.configuration())

    async def deauthenticate(self) -> authentication.Authentication:
        """Give up the rights."""
        return await self.ask(authentication.deauthenticate())

    async def authenticate_by_certificate(
        self, certificate: bytes, sign: Callable[[bytes], bytes], *, configuration: int = 0
    ) -> authentication.Authentication:
        """Certificate, challenge, proof: the unidirectional way. ``sign`` makes the proof of the challenge."""
        asked = await self.ask(authentication.verify_certificate(certificate, configuration=configuration))
        return await self.ask(authentication.prove_ownership(sign(asked.challenge)))

    async def communication_control(
        self, control_type: int, kind: int = 1, node: int | None = None, *, suppress: bool = False
    ) -> None:
        """Switch sending and receiving of messages (0x28)."""
        await self._either(control.communication_control(control_type, kind, node), suppress=suppress)

    async def tester_present(self, *, suppress: bool = False) -> None:
        """Say that we are still there; ``async with`` the client does so by itself."""
        await self._either(control.tester_present(), suppress=suppress)

    async def access_timing(self, access: int, record: bytes = b"") -> bytes:
        """0x83; ``timing`` is the property with what is in force here."""
        return await self.ask(control.timing(access, record))

    async def dtc_setting(self, *, on: bool, record: bytes = b"", suppress: bool = False) -> None:
        """Let DTCs change, or freeze them (0x85)."""
        await self._either(control.dtc_setting(1 if on else 2, record), suppress=suppress)

    async def link_control(self, bits_per_second: int | None = None, *, fixed: int | None = None) -> None:
        """Verify that a baud rate is possible (``fixed``: an identifier of annex B.3), then go to it."""
        if (bits_per_second is None) == (fixed is None):
            raise ValueError("one of bits_per_second and fixed")
        if fixed is not None:
            await self.ask(control.verify_fixed_baudrate(fixed))
        elif bits_per_second is not None:
            await self.ask(control.verify_baudrate(bits_per_second))
        await self.tell(control.transition_baudrate())

    async def secured(self, inner: bytes, protection: secured_data.Protection) -> bytes:
        """Carry a request by 0x84; the inner positive answer.

        Raises:
            NegativeResponse: also the inner one.
        """
        answer = await self.ask(secured_data.secured(inner, protection))
        if len(answer) >= 3 and answer[0] == NEGATIVE:
            raise NegativeResponse(answer[1], answer[2])
        return answer

    async def response_on_event(
        self,
        event: int,
        record: bytes = b"",
        service: bytes = b"",
        *,
        window: int = events.INFINITE_WINDOW,
        stored: bool = False,
    ) -> events.EventAnswer:
        """Set up, start, stop or clear events (0x86); their answers come by ``unsolicited``."""
        self.expect_unsolicited()
        return await self.ask(events.response_on_event(event, window, record, service, stored=stored))

    async def activated_events(self) -> tuple[events.EventSetUp, ...]:
        """The events that are active."""
        return (await self.ask(events.activated_events())).events

    # DTCs.

    async def clear(self, group: int = dtc.ALL_GROUPS, memory: int | None = None) -> None:
        """Forget DTCs: all, a group or one; in a user memory where named."""
        await self.ask(dtc.clear(group, memory))

    async def count_dtcs(self, mask: int = 0xFF) -> dtc.DtcCount:
        """How many have one of the status bits."""
        return await self.ask(dtc.count(mask))

    async def read_dtcs(self, mask: int = 0xFF, *, memory: int | None = None) -> dtc.DtcList:
        """Those with one of the status bits; of a user memory where named."""
        return await self.ask(dtc.by_status(mask) if memory is None else dtc.by_user_memory(mask, memory))

    async def supported_dtcs(self) -> dtc.DtcList:
        """All the ECU can report."""
        return await self.ask(dtc.listed(0x0A))

    async def first_failed_dtc(self) -> dtc.DtcList:
        """The first that failed since the last clearing."""
        return await self.ask(dtc.listed(0x0B))

    async def first_confirmed_dtc(self) -> dtc.DtcList:
        """The first confirmed since the last clearing."""
        return await self.ask(dtc.listed(0x0C))

    async def most_recent_failed_dtc(self) -> dtc.DtcList:
        """The last that failed."""
        return await self.ask(dtc.listed(0x0D))

    async def most_recent_confirmed_dtc(self) -> dtc.DtcList:
        """The last confirmed."""
        return await self.ask(dtc.listed(0x0E))

    async def permanent_dtcs(self) -> dtc.DtcList:
        """Those that survive clearing."""
        return await self.ask(dtc.listed(0x15))

    async def mirror_dtcs(self, mask: int = 0xFF) -> dtc.DtcList:
        """Those of the mirror memory (editions before 2020)."""
        return await self.ask(dtc.by_status(mask, 0x0F))

    async def count_mirror_dtcs(self, mask: int = 0xFF) -> dtc.DtcCount:
        """How many are in the mirror memory."""
        return await self.ask(dtc.count(mask, 0x11))

    async def emissions_dtcs(self, mask: int = 0xFF) -> dtc.DtcList:
        """Emissions-related ones (editions before 2020)."""
        return await self.ask(dtc.by_status(mask, 0x13))

    async def count_emissions_dtcs(self, mask: int = 0xFF) -> dtc.DtcCount:
        """How many are emissions-related."""
        return await self.ask(dtc.count(mask, 0x12))

    async def snapshot_ids(self) -> tuple[dtc.SnapshotId, ...]:
        """Which snapshots there are."""
        return await self.ask(dtc.snapshot_ids())

    async def snapshots(
        self,
        code: int,
        record: int = dtc.ALL_RECORDS,
        lengths: data.Lengths | None = None,
        *,
        memory: int | None = None,
    ) -> dtc.DtcSnapshots:
        """The snapshots of a DTC; ``lengths`` gives the bytes of each identifier in them."""
        return await self.ask(dtc.snapshots(code, record, lengths, memory))

    async def stored_snapshots(
        self, record: int = dtc.ALL_RECORDS, lengths: data.Lengths | None = None
    ) -> tuple[dtc.StoredSnapshot, ...]:
        """Snapshots by record number."""
        return await self.ask(dtc.stored_snapshots(record, lengths))

    async def extended_data(
        self,
        code: int,
        record: int = dtc.ALL_RECORDS,
        lengths: data.Lengths | None = None,
        *,
        memory: int | None = None,
        is_mirror: bool = False,
    ) -> dtc.DtcExtendedData:
        """The extended data of a DTC; ``lengths`` gives the bytes of each record."""
        return await self.ask(dtc.extended_data(code, record, lengths, memory, is_mirror=is_mirror))

    async def extended_data_by_record(self, record: int, length: int) -> tuple[dtc.DtcExtended, ...]:
        """One extended data record of all DTCs."""
        return await self.ask(dtc.extended_by_record(record, length))

    async def extended_data_support(self, record: int) -> dtc.ExtendedSupport:
        """The DTCs that have an extended data record."""
        return await self.ask(dtc.extended_support(record))

    async def count_by_severity(self, severity: int, mask: int = 0xFF) -> dtc.DtcCount:
        """How many are of a severity."""
        return await self.ask(dtc.count_by_severity(severity, mask))

    async def read_by_severity(self, severity: int, mask: int = 0xFF) -> dtc.SeverityList:
        """Those of a severity."""
        return await self.ask(dtc.by_severity(severity, mask))

    async def severity_of(self, code: int) -> dtc.DtcSeverity | None:
        """The severity of one; None when the ECU does not have it."""
        found = (await self.ask(dtc.severity(code))).dtcs
        return found[0] if found else None

    async def fault_counters(self) -> tuple[dtc.FaultCounter, ...]:
        """The fault detection counters of those on their way to failed."""
        return await self.ask(dtc.fault_counters())

    async def group_dtcs(self, group: int, mask: int = 0xFF, severity: int = 0xFF) -> dtc.GroupList:
        """WWH-OBD: those of a functional group."""
        return await self.ask(dtc.by_group(group, mask, severity))

    async def permanent_group_dtcs(self, group: int) -> dtc.GroupList:
        """WWH-OBD: the permanent ones of a functional group."""
        return await self.ask(dtc.permanent_by_group(group))

    async def readiness_dtcs(self, group: int, readiness: int) -> dtc.GroupList:
        """Those of a readiness group."""
        return await self.ask(dtc.by_readiness(group, readiness))

    # Data.

    async def read_did(self, did: int) -> bytes:
        """The data of one identifier."""
        return await self.ask(data.read_did(did))

    async def read_dids(self, dids: Sequence[int], lengths: data.Lengths | None = None) -> dict[int, bytes]:
        """The data of those the ECU has. In one request where the lengths are known, else one by one."""
        if all(data.length_of(lengths, did) is not None for did in dids[:-1]):
            try:
                return await self.ask(data.read_dids(dids, lengths))
            except NegativeResponse as refusal:
                if len(dids) == 1 or refusal.nrc not in (Nrc.RESPONSE_TOO_LONG, Nrc.INCORRECT_LENGTH):
                    raise  # 0x13: it takes one at a time
        found = {}
        for did in dids:
            try:
                found[did] = await self.read_did(did)
            except NegativeResponse as refusal:
                if refusal.nrc != Nrc.OUT_OF_RANGE:
                    raise
        if not found:
            raise NegativeResponse(0x22, Nrc.OUT_OF_RANGE)
        return found

    async def read_scaling(self, did: int) -> tuple[scaling.ScalingItem, ...]:
        """How an identifier's data is coded."""
        return await self.ask(scaling.read_scaling(did))

    async def read_memory(
        self, address: int, size: int, address_bytes: int | None = None, size_bytes: int | None = None
    ) -> bytes:
        """Memory by address; the width of both numbers as small as they need unless told."""
        return await self.ask(data.read_memory(address, size, address_bytes, size_bytes))

    async def write_memory(
        self, address: int, content: bytes, address_bytes: int | None = None, size_bytes: int | None = None
    ) -> None:
        """Write memory by address."""
        await self.ask(data.write_memory(address, content, address_bytes, size_bytes))

    async def write_did(self, did: int, content: bytes) -> None:
        """Write the data of an identifier."""
        await self.ask(data.write_did(did, content))

    async def periodic(self, rate: int, identifiers: Collection[int] = ()) -> None:
        """Have identifiers 0xF2xx sent by themselves (0x2A); they come by ``periodic_messages``."""
        self.expect_unsolicited()
        await self.ask(data.periodic(rate, identifiers))

    async def periodic_messages(self) -> AsyncIterator[data.PeriodicMessage]:
        """What comes of ``periodic``, without end; other unsolicited messages meanwhile are dropped."""
        async for pdu in self.unsolicited():
            message = data.read_periodic_message(pdu)
            if message is not None:
                yield message

    async def define_did(self, did: int, sources: Sequence[data.DidSource]) -> None:
        """Make an identifier of pieces of others."""
        await self.ask(data.define_did(did, sources))

    async def define_did_by_memory(
        self, did: int, sources: Sequence[data.MemorySource], address_bytes: int = 4, size_bytes: int = 2
    ) -> None:
        """Make an identifier of pieces of memory."""
        await self.ask(data.define_did_by_memory(did, sources, address_bytes, size_bytes))

    async def clear_did(self, did: int | None = None) -> None:
        """Forget a defined identifier, or all."""
        await self.ask(data.clear_did(did))

    async def io_control(self, did: int, control_parameter: int, state: bytes = b"", mask: bytes = b"") -> bytes:
        """Take over or give back an input or output (``IoControl``); its status."""
        return await self.ask(data.io_control(did, control_parameter, state, mask))

    async def start_routine(self, identifier: int, option: bytes = b"") -> bytes:
        """Start a routine; its info and status bytes."""
        return await self.ask(data.routine(data.Routine.START, identifier, option))

    async def stop_routine(self, identifier: int, option: bytes = b"") -> bytes:
        """Stop a routine."""
        return await self.ask(data.routine(data.Routine.STOP, identifier, option))

    async def routine_result(self, identifier: int) -> bytes:
        """What came of a routine."""
        return await self.ask(data.routine(data.Routine.RESULT, identifier))

    # Transfers; ``transfer.download`` and ``transfer.upload`` do them whole.

    async def request_download(
        self, address: int, size: int, *, address_bytes: int = 4, size_bytes: int = 4, data_format: int = 0
    ) -> load.Transfer:
        """Announce data for the ECU's memory."""
        query = load.request_download(
            address, size, address_bytes=address_bytes, size_bytes=size_bytes, data_format=data_format
        )
        return await self.ask(query)

    async def request_upload(
        self, address: int, size: int, *, address_bytes: int = 4, size_bytes: int = 4, data_format: int = 0
    ) -> load.Transfer:
        """Ask for data of the ECU's memory."""
        query = load.request_upload(
            address, size, address_bytes=address_bytes, size_bytes=size_bytes, data_format=data_format
        )
        return await self.ask(query)

    async def transfer(self, counter: int, block: bytes = b"") -> bytes:
        """One block, down or (without ``block``) up."""
        return await self.ask(load.transfer(counter, block))

    async def transfer_exit(self, record: bytes = b"") -> bytes:
        """End the transfer; the ECU's record."""
        return await self.ask(load.transfer_exit(record))

    async def transfer_file(
        self,
        mode: int,
        path: str,
        *,
        size: int = 0,
        compressed: int | None = None,
        data_format: int = 0,
        width: int = 4,
    ) -> load.FileTransfer:
        """Begin with a file (0x38)."""
        return await self.ask(
            load.request_file(mode, path, size=size, compressed=compressed, data_format=data_format, width=width)
        )
