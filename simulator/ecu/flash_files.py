"""The small file system of an ECU and service 0x38's view of it. Non-volatile; half a file can be resumed.

Paths are printable ASCII beginning with ``/``; there are no directories but the root, which lists itself as lines of
name and size.
"""

from __future__ import annotations

import re
from typing import Any

from simulator.ecu.service import Nrc, Refusal
from simulator.ecu.storage import NvStore

ROOT = "/"
_PATH = re.compile(r"/[A-Za-z0-9._-]{1,60}")
NV_KEY = "flash.files"


class FileStore:
    """Files and those that have only partly arrived, bounded in bytes and number."""

    def __init__(self, nv: NvStore, capacity_bytes: int, capacity_files: int) -> None:
        self._nv = nv
        self.capacity_bytes, self.capacity_files = capacity_bytes, capacity_files

    def _read(self) -> dict[str, Any]:
        files: dict[str, Any] = self._nv.get(NV_KEY) or {"whole": {}, "partial": {}}
        return files

    @property
    def names(self) -> list[str]:
        """Paths of whole files."""
        return sorted(self._read()["whole"])

    def content(self, path: str) -> bytes:
        """Of a whole file. Raises ``Refusal`` (0x31)."""
        whole = self._read()["whole"]
        if path not in whole:
            raise Refusal(Nrc.REQUEST_OUT_OF_RANGE)
        return bytes(whole[path])

    def listing(self) -> bytes:
        """The root directory."""
        whole = self._read()["whole"]
        return "".join(f"{path}\t{len(whole[path])}\n" for path in sorted(whole)).encode("ascii")

    def delete(self, path: str) -> None:
        """Also what has only partly arrived. Raises ``Refusal`` (0x31): neither is there."""
        files = self._read()
        known = [kind for kind in ("whole", "partial") if files[kind].pop(path, None) is not None]
        if not known:
            raise Refusal(Nrc.REQUEST_OUT_OF_RANGE)
        self._nv.set(NV_KEY, files)

    def begin(self, path: str, size: int, *, replace: bool) -> None:
        """A file of ``size`` bytes is going to arrive.

        Raises:
            Refusal: 0x31 it is there already and is not to be replaced; 0x70 no room for it.
        """
        files = self._read()
        if path in files["whole"] and not replace:
            raise Refusal(Nrc.REQUEST_OUT_OF_RANGE)
        others = {p: len(c) for p, c in files["whole"].items() if p != path}
        promised = {p: entry["size"] for p, entry in files["partial"].items() if p != path}
        if sum(others.values()) + sum(promised.values()) + size > self.capacity_bytes:
            raise Refusal(Nrc.UPLOAD_DOWNLOAD_NOT_ACCEPTED)
        if len({*others, *promised}) >= self.capacity_files:
            raise Refusal(Nrc.UPLOAD_DOWNLOAD_NOT_ACCEPTED)
        files["partial"][path] = {"size": size, "content": b""}
        self._nv.set(NV_KEY, files)

    def arrived(self, path: str) -> tuple[int, int]:
        """(bytes that have arrived, size) of a file that is half there. Raises ``Refusal`` (0x31): there is none."""
        entry = self._read()["partial"].get(path)
        if entry is None:
            raise Refusal(Nrc.REQUEST_OUT_OF_RANGE)
        return len(entry["content"]), int(entry["size"])

    def append(self, path: str, content: bytes) -> None:
        """More of a file that is arriving."""
        files = self._read()
        files["partial"][path]["content"] = bytes(files["partial"][path]["content"]) + content
        self._nv.set(NV_KEY, files)

    def complete(self, path: str) -> None:
        """All of it has arrived: it takes the place of what was there."""
        files = self._read()
        files["whole"][path] = files["partial"].pop(path)["content"]
        self._nv.set(NV_KEY, files)


def parse_path(raw: bytes, *, directory: bool) -> str:
    """Raises ``Refusal`` (0x31): not a path of this file system."""
    text = raw.decode("ascii", "replace")
    if (text != ROOT) if directory else (_PATH.fullmatch(text) is None):
        raise Refusal(Nrc.REQUEST_OUT_OF_RANGE)
    return text
