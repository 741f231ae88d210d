"""Building a delta: the base is indexed, the target made segment by segment into a work file, then put together.

The work file grows by one record per segment (its checksum says whether it is whole), so a build that was killed goes
on where it was. Memory: the index (36 MiB at most), one segment and its windows, bsdiff's tables over at most 3 MiB of
base (24 MiB) and zstd's: under ``MEMORY_BYTES`` whatever the images' size. Nothing here knows the database.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import zstandard

from cloud.updates.delta.index import BaseIndex, index_file
from cloud.updates.delta.match import Matcher
from cloud.updates.delta.segments import Made, SegmentBuilder
from gateway.wire.delta import (
    DEFAULT_SEGMENT_BYTES,
    FIXED_BYTES,
    FORMAT,
    MAX_SEGMENTS,
    DeltaFormatError,
    DeltaHeader,
    Method,
    NewSegment,
    encode_header,
    header_bytes,
    header_length,
    segments_of,
)

#: A build's whole process stays below this.
MEMORY_BYTES = 320 * 1024 * 1024
#: A delta is kept when it is smaller than this part of the full image, compressed.
USEFUL_PART = 0.7
#: Changes when the same images would give another delta: part of the name of work files.
EFFORT = 1
_FULL_LEVEL = 3
_CHUNK_BYTES = 4 * 1024 * 1024
_RECORD = struct.Struct("<4sBI32sI")  # mark, method, payload bytes, sha256 of the output, crc32 of it all
_MARK = b"SEG1"

#: Told after each step: what is done ("index", "target", "segments", "write"), bytes done, bytes in all.
Progress = Callable[[str, int, int], None]


class NotUseful(Exception):
    """The delta would save too little; sending the full image is the better way."""


class WrongImage(Exception):
    """A file is not the image it should be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A file and what it must be."""

    path: Path
    length: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaFacts:
    """What was built."""

    base_sha256: str
    base_length: int
    target_sha256: str
    target_length: int
    length: int
    sha256: str
    sha512: str
    segments: int
    methods: dict[str, int]  # segments by method
    full_bytes: int  # of the target, compressed
    resumed_segments: int  # taken over from an earlier, interrupted run


def delta_name(base_sha256: str, target_sha256: str) -> str:
    """The file name of a finished delta; also the key under which it is cached."""
    return f"{base_sha256[:32]}-{target_sha256[:32]}.f{FORMAT}.delta"


def segment_bytes_for(length: int) -> int:
    """The size of segments for a target: the default, and more where there would be too many."""
    size = DEFAULT_SEGMENT_BYTES
    while segments_of(length, size) > MAX_SEGMENTS:
        size *= 2
    return size


def build_delta(
    base: Image,
    target: Image,
    path: Path,
    *,
    progress: Progress = lambda step, done, total: None,
    segment_bytes: int = 0,
    useful_part: float = USEFUL_PART,
) -> DeltaFacts:
    """Build the delta from ``base`` to ``target`` as the file ``path``, which is there whole or not at all.

    Work files lie beside it and are used again when the same build was interrupted.

    Raises:
        NotUseful: it would be larger than ``useful_part`` of the compressed target.
        WrongImage: a file is not what its facts say.
        OSError: a file cannot be read, or there is no room.
    """
    size = segment_bytes or segment_bytes_for(target.length)
    work_path = path.with_name(f".{path.name}.{base.sha256[:8]}.{size}.{EFFORT}.work")
    with _opened(base.path) as old, _opened(target.path) as new:
        known = _finished(path, base, target)
        if known is not None:
            return _facts(known, path, _full_bytes(new, target, progress), len(known))
        index = _indexed(old, base, progress)
        full_bytes = _full_bytes(new, target, progress)
        with _WorkFile(work_path, segments_of(target.length, size)) as work:
            resumed = len(work.segments)
            builder = SegmentBuilder(Matcher(old, base.length, index), old, base.length)
            most_bytes = int(full_bytes * useful_part)
            for number in range(resumed, work.count):
                at = number * size
                progress("segments", at, target.length)
                work.append(builder.make(new(at, min(size, target.length - at)), at))
                if work.length + header_bytes(work.count) > most_bytes:
                    raise NotUseful(f"the delta has {work.length} bytes so far, the compressed image {full_bytes}")
            progress("segments", target.length, target.length)
            header = _put_together(work, base, target, path, size)
    work_path.unlink(missing_ok=True)
    return _facts(header, path, full_bytes, resumed)


def _finished(path: Path, base: Image, target: Image) -> DeltaHeader | None:
    """The header of the delta when an earlier build came to its end. Files get their name only when they are whole."""
    try:
        with path.open("rb") as file:
            prefix = file.read(FIXED_BYTES)
            file.seek(0)
            header = DeltaHeader(file.read(header_length(prefix)), path.stat().st_size)
    except (OSError, DeltaFormatError):
        return None
    made = (header.base_sha256.hex(), header.base_length, header.target_sha256.hex(), header.target_length)
    return header if made == (base.sha256, base.length, target.sha256, target.length) else None


def _facts(header: DeltaHeader, path: Path, full_bytes: int, resumed: int) -> DeltaFacts:
    sha256, sha512 = hashlib.sha256(), hashlib.sha512()
    with path.open("rb") as file:
        while piece := file.read(_CHUNK_BYTES):
            sha256.update(piece)
            sha512.update(piece)
    names = [header.segment(i).method.name.lower() for i in range(len(header))]
    return DeltaFacts(
        base_sha256=header.base_sha256.hex(),
        base_length=header.base_length,
        target_sha256=header.target_sha256.hex(),
        target_length=header.target_length,
        length=path.stat().st_size,
        sha256=sha256.hexdigest(),
        sha512=sha512.hexdigest(),
        segments=len(header),
        methods={name: names.count(name) for name in dict.fromkeys(names)},
        full_bytes=full_bytes,
        resumed_segments=resumed,
    )


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Callable[[int, int], bytes]]:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read(offset: int, length: int) -> bytes:
        pieces = []
        while length > 0 and (piece := os.pread(handle, length, offset)):
            pieces.append(piece)
            offset, length = offset + len(piece), length - len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    try:
        yield read
    finally:
        os.close(handle)


def _indexed(read: Callable[[int, int], bytes], image: Image, progress: Progress) -> BaseIndex:
    check = _Check(image, "index", progress)
    index = index_file(read, image.length, check.add)
    check.finish(read)
    return index


def _full_bytes(read: Callable[[int, int], bytes], image: Image, progress: Progress) -> int:
    """The length of the image compressed, while it is checked."""
    check = _Check(image, "target", progress)
    packer = zstandard.ZstdCompressor(level=_FULL_LEVEL).compressobj()
    total = 0
    for at in range(0, image.length, _CHUNK_BYTES):
        piece = read(at, min(_CHUNK_BYTES, image.length - at))
        check.add(piece)
        total += len(packer.compress(piece))
    check.finish(read)
    return total + len(packer.flush())


class _Check:
    """Compares what is read with what the image should be."""

    def __init__(self, image: Image, step: str, progress: Progress) -> None:
        self._image, self._step, self._progress = image, step, progress
        self._state, self._done = hashlib.sha256(), 0

    def add(self, piece: bytes) -> None:
        """The next bytes."""
        self._state.update(piece)
        self._done += len(piece)
        self._progress(self._step, self._done, self._image.length)

    def finish(self, read: Callable[[int, int], bytes]) -> None:
        """Raises ``WrongImage``."""
        longer = read(self._image.length, 1)
        if self._done != self._image.length or longer or self._state.hexdigest() != self._image.sha256:
            raise WrongImage(f"{self._image.path} is not the image it should be")


class _WorkFile:
    """Finished segments, one record after another. What is not whole at the end is cut off when it is opened again."""

    def __init__(self, path: Path, count: int) -> None:
        self.count, self.segments, self.length = count, list[NewSegment](), 0
        self._file = path.open("a+b")
        try:
            self._end = self._read_back()
            self._file.truncate(self._end)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> _WorkFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _read_back(self) -> int:
        self._file.seek(0)
        end = 0
        while len(self.segments) < self.count:
            head = self._file.read(_RECORD.size)
            if len(head) < _RECORD.size:
                break
            mark, method, size, sha256, crc = _RECORD.unpack(head)
            payload = self._file.read(size) if mark == _MARK and size <= _CHUNK_BYTES * 2 else b""
            if len(payload) != size or crc != zlib.crc32(payload, zlib.crc32(head[:-4])):
                break
            self._note(NewSegment(method=Method(method), payload_bytes=size, sha256=sha256))
            end += len(head) + size
        return end

    def _note(self, segment: NewSegment) -> None:
        self.segments.append(segment)
        self.length += segment.payload_bytes

    def append(self, made: Made) -> None:
        """Keep a segment. Raises ``OSError``."""
        segment = made.segment
        head = _RECORD.pack(_MARK, segment.method, segment.payload_bytes, segment.sha256, 0)[:-4]
        self._file.write(head + zlib.crc32(made.payload, zlib.crc32(head)).to_bytes(4, "little") + made.payload)
        self._file.flush()
        self._note(segment)

    def payloads(self) -> Iterator[bytes]:
        """All payloads in order."""
        self._file.seek(0)
        for segment in self.segments:
            self._file.seek(_RECORD.size, os.SEEK_CUR)
            yield self._file.read(segment.payload_bytes)


def _put_together(work: _WorkFile, base: Image, target: Image, path: Path, segment_bytes: int) -> DeltaHeader:
    """Header and payloads as one durable file."""
    header = encode_header(
        segment_bytes=segment_bytes,
        base_length=base.length,
        base_sha256=bytes.fromhex(base.sha256),
        target_length=target.length,
        target_sha256=bytes.fromhex(target.sha256),
        segments=work.segments,
    )
    temporary = path.with_name(f".{path.name}.new")
    with temporary.open("wb") as file:
        file.write(header)
        for payload in work.payloads():
            file.write(payload)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return DeltaHeader(header, path.stat().st_size)
