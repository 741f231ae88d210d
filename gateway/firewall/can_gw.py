"""The kernel's CAN gateway (can-gw) by rtnetlink: routes without limits cost no CPU time of ours and outlive us.

``compile_jobs``, ``add_request``, ``delete_request`` and ``parse_jobs`` are pure; ``KernelGateway`` does the I/O. A job
forwards frames of one identifier pattern from one interface to another; classic and FD frames need a job each.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable, Mapping

import msgspec

from gateway.firewall.can_rules import Route

RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_F_REQUEST, _F_ACK, _F_DUMP, _F_CREATE = 1, 4, 0x300, 0x400
_CGW_TYPE_CAN_CAN = 1
_CGW_FLAGS_CAN_ECHO, _CGW_FLAGS_CAN_FD = 0x01, 0x08
_CGW_HANDLED, _CGW_DROPPED, _CGW_SRC_IF, _CGW_DST_IF, _CGW_FILTER = 7, 8, 9, 10, 11
_EXTENDED, _REMOTE = 0x80000000, 0x40000000
_HEADER = struct.Struct("=IHHII")
_RTCAN = struct.Struct("=BBH")
MAX_JOBS = 256


class Job(msgspec.Struct, frozen=True):
    """One kernel job: interface indices, filter, and whether it is for FD frames."""

    source: int
    destination: int
    can_id: int  # with the 29-bit flag
    mask: int
    fd: bool


class JobState(msgspec.Struct, frozen=True):
    """A job with what the kernel counted. ``dropped`` are frames that the destination did not take."""

    job: Job
    handled: int
    dropped: int


def compile_jobs(route: Route, indices: Mapping[str, int], fd_buses: Iterable[str]) -> list[Job] | None:
    """The jobs that do exactly what the route says, or None where the kernel cannot (limits, an interface not there).

    Args:
        route: a resolved route.
        indices: interface index per bus; buses that are no SocketCAN interface are left out.
        fd_buses: those whose interface carries FD frames.
    """
    buses = (route.source, *route.to)
    if route.has_limits or any(bus not in indices for bus in buses):
        return None
    carries_fd = set(fd_buses)
    jobs = []
    for ids in route.ids:
        flag = _EXTENDED if ids.extended else 0
        for can_id, mask in ids.masks():
            for to in route.to:
                kinds = (False, True) if {route.source, to} <= carries_fd else (False,)
                for fd in kinds:
                    word = mask | _EXTENDED | _REMOTE  # remote frames do not pass
                    jobs.append(Job(indices[route.source], indices[to], can_id | flag, word, fd))
    return jobs if len(jobs) <= MAX_JOBS else None


def _attribute(kind: int, content: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(content), kind) + content + bytes(-len(content) % 4)


def _request(kind: int, flags: int, job: Job | None, sequence: int) -> bytes:
    # Echo: readers on this machine hear what is forwarded, as they hear everything else on that bus.
    job_flags = _CGW_FLAGS_CAN_ECHO | (_CGW_FLAGS_CAN_FD if job is not None and job.fd else 0)
    body = _RTCAN.pack(socket.AF_CAN, _CGW_TYPE_CAN_CAN, job_flags)
    if job is not None:
        body += _attribute(_CGW_SRC_IF, struct.pack("=I", job.source))
        body += _attribute(_CGW_DST_IF, struct.pack("=I", job.destination))
        body += _attribute(_CGW_FILTER, struct.pack("=II", job.can_id, job.mask))
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, sequence, 0) + body


def add_request(job: Job, sequence: int) -> bytes:
    """The message that makes a job."""
    return _request(RTM_NEWROUTE, _F_REQUEST | _F_ACK | _F_CREATE, job, sequence)


def delete_request(job: Job, sequence: int) -> bytes:
    """The message that removes a job."""
    return _request(RTM_DELROUTE, _F_REQUEST | _F_ACK, job, sequence)


def dump_request(sequence: int) -> bytes:
    """The message that asks for all jobs."""
    return _request(RTM_GETROUTE, _F_REQUEST | _F_DUMP, None, sequence)


def parse_jobs(datagram: bytes) -> tuple[list[JobState], bool]:
    """The jobs in one datagram, and whether it ends the dump. What is cut short or of another kind is left out."""
    jobs: list[JobState] = []
    at = 0
    while at + _HEADER.size <= len(datagram):
        length, kind, _, _, _ = _HEADER.unpack_from(datagram, at)
        if kind in (_NLMSG_DONE, _NLMSG_ERROR):
            return jobs, True
        if length < _HEADER.size or at + length > len(datagram):
            break
        if kind == RTM_NEWROUTE:
            state = _job(datagram[at + _HEADER.size : at + length])
            if state is not None:
                jobs.append(state)
        at += (length + 3) & ~3
    return jobs, False


def _job(body: bytes) -> JobState | None:
    if len(body) < _RTCAN.size:
        return None
    _, kind, flags = _RTCAN.unpack_from(body)
    found: dict[int, bytes] = {}
    at = _RTCAN.size
    while at + 4 <= len(body):
        length, number = struct.unpack_from("=HH", body, at)
        if length < 4 or at + length > len(body):
            break
        found[number & 0x3FFF] = body[at + 4 : at + length]
        at += (length + 3) & ~3
    if kind != _CGW_TYPE_CAN_CAN or len(found.get(_CGW_SRC_IF, b"")) < 4 or len(found.get(_CGW_DST_IF, b"")) < 4:
        return None
    can_id, mask = struct.unpack_from("=II", found[_CGW_FILTER]) if len(found.get(_CGW_FILTER, b"")) >= 8 else (0, 0)
    job = Job(_number(found, _CGW_SRC_IF), _number(found, _CGW_DST_IF), can_id, mask, bool(flags & _CGW_FLAGS_CAN_FD))
    return JobState(job, _number(found, _CGW_HANDLED), _number(found, _CGW_DROPPED))


def _number(found: Mapping[int, bytes], kind: int) -> int:
    content = found.get(kind, b"")
    return int(struct.unpack_from("=I", content)[0]) if len(content) >= 4 else 0


class KernelGateway:
    """The kernel's jobs between our interfaces; those are ours alone, whoever made them."""

    def __init__(self) -> None:
        """Open the connection.

        Raises:
            OSError: no netlink here.
        """
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.settimeout(2.0)
        self._sequence = 0

    def is_usable(self) -> bool:
        """Whether this kernel has can-gw and lets us list its jobs."""
        try:
            self.jobs()
        except OSError:
            return False
        return os.path.exists("/proc/sys/net") and os.path.exists("/sys/module/can_gw")

    def jobs(self) -> list[JobState]:
        """All jobs of the kernel.

        Raises:
            OSError: it does not answer.
        """
        self._sequence += 1
        self._socket.send(dump_request(self._sequence))
        found: list[JobState] = []
        for _ in range(10_000):
            datagram = self._socket.recv(65536)
            jobs, is_last = parse_jobs(datagram)
            found += jobs
            if is_last:
                return found
        raise OSError(errno.EPROTO, "an endless answer")

    def add(self, job: Job) -> None:
        """Make a job.

        Raises:
            OSError: refused (EPERM: CAP_NET_ADMIN is missing).
        """
        self._sequence += 1
        self._ask(add_request(job, self._sequence))

    def delete(self, job: Job) -> None:
        """Remove a job.

        Raises:
            OSError: there is none, or no permission.
        """
        self._sequence += 1
        self._ask(delete_request(job, self._sequence))

    def _ask(self, request: bytes) -> None:
        self._socket.send(request)
        answer = self._socket.recv(65536)
        if len(answer) >= _HEADER.size + 4:
            (error,) = struct.unpack_from("=i", answer, _HEADER.size)
            if error:
                raise OSError(-error, os.strerror(-error))

    def close(self) -> None:
        """Close the connection; the jobs stay."""
        self._socket.close()
