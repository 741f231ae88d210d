"""Root file systems made of Debian packages, before and after a security update. Only what the mirror offers.

Packages that the mirror has in two versions are the update; others fill the image. Downloads are kept in the user's
cache. Owners, times and identifiers are fixed, so that nothing differs but what the packages brought.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "outrider" / "debs"
UUID = "00000000-0000-0000-0000-000000000000"
EXT4_SPARE = 1.25
#: Below usr/share: compressed documents, which images for vehicles leave out.
NOT_IN_A_VEHICLE = ("doc", "man", "info", "lintian")

#: Updated in the large pair: what a gateway has of what security updates touch.
LARGE_UPDATE = (
    *("libssl3", "openssl", "libpython3.11-minimal", "libpython3.11-stdlib", "python3.11-minimal", "libexpat1"),
    *("apt", "libapt-pkg6.0", "perl-base", "liblzma5", "xz-utils", "tzdata", "ca-certificates", "libarchive13"),
    *("libpng16-16", "bind9-libs", "rsyslog"),
)
LARGE_REST = (
    *("libc6", "libc-bin", "systemd", "libsystemd0", "libsystemd-shared", "udev", "libudev1", "libglib2.0-0"),
    *(
        "libgnutls30",
        "libgcrypt20",
        "libkrb5-3",
        "libcurl4",
        "curl",
        "libsqlite3-0",
        "bash",
        "coreutils",
        "dpkg",
        "tar",
    ),
    *("gzip", "util-linux", "mount", "e2fsprogs", "libext2fs2", "login", "passwd", "iproute2", "kmod", "libkmod2"),
    *("dbus", "libdbus-1-3", "zlib1g", "libzstd1", "libncursesw6", "libtinfo6", "ncurses-base", "libreadline8"),
    *("libstdc++6", "libgcc-s1", "openssh-client", "openssh-server", "libnftables1", "libp11-kit0", "libgmp10"),
    *("libnettle8", "libunistring2", "libpam-modules", "mosquitto", "chrony", "gpsd", "sudo", "network-manager"),
    *("modemmanager", "libmm-glib0", "libnm0", "busybox-static", "bluez", "wpasupplicant", "libicu72"),
    *("python3-cryptography",),
)
#: A pair that is quick to fetch, unpack and build; for every run of the tests.
SMALL_UPDATE = ("libssl3", "openssl", "libexpat1", "liblzma5", "xz-utils", "libpng16-16")
SMALL_REST = ("libc6", "bash", "libicu72", "libstdc++6", "dbus", "kmod")


class NotAvailable(Exception):
    """This machine has no Debian mirror or lacks a tool; the text says what is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two images and what differs."""

    base: Path
    target: Path
    updated: tuple[str, ...]  # "libssl3 3.0.20 -> 3.0.22"


def _run(*command: str, folder: Path | None = None, **variables: str) -> str:
    try:
        done = subprocess.run(
            command, cwd=folder, env=os.environ | variables, capture_output=True, text=True, check=False, timeout=600
        )
    except FileNotFoundError as error:
        raise NotAvailable(f"{command[0]} is not installed") from error
    if done.returncode:
        raise NotAvailable(f"{' '.join(command[:3])}: {done.stderr.strip()[-300:]}")
    return done.stdout


def _newer(left: str, right: str) -> int:
    return 1 if not subprocess.run(["dpkg", "--compare-versions", left, "gt", right], check=False).returncode else -1


def versions(names: Sequence[str]) -> dict[str, list[str]]:
    """What the mirror offers of each package, oldest first."""
    found: dict[str, set[str]] = {}
    for line in _run("apt-cache", "madison", *names).splitlines():
        name, version, _ = (part.strip() for part in line.split("|"))
        found.setdefault(name, set()).add(version)
    return {name: sorted(known, key=functools.cmp_to_key(_newer)) for name, known in found.items()}


def fetch(wanted: Sequence[tuple[str, str]]) -> list[Path]:
    """The package files, from the cache or the mirror."""
    CACHE.mkdir(parents=True, exist_ok=True)

    def files(name: str, version: str) -> list[Path]:
        return list(CACHE.glob(f"{name}_{version.replace(':', '%3a')}_*.deb"))

    missing = [f"{name}={version}" for name, version in wanted if not files(name, version)]
    if missing:
        _run("apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", *missing, folder=CACHE)
    try:
        return [files(name, version)[0] for name, version in wanted]
    except IndexError as error:
        raise NotAvailable("a package was not downloaded") from error


def _unpack(files: Sequence[Path], folder: Path) -> None:
    folder.mkdir()
    for file in files:
        _run("dpkg-deb", "-x", str(file), str(folder))
    for name in NOT_IN_A_VEHICLE:
        shutil.rmtree(folder / "usr" / "share" / name, ignore_errors=True)


def erofs(tree: Path, image: Path) -> None:
    """An uncompressed erofs, the same for the same tree."""
    _run("mkfs.erofs", "-T0", "-U", UUID, "--all-root", str(image), str(tree))


def ext4(tree: Path, image: Path) -> None:
    """An ext4 without journal. All pairs of one run get the same size."""
    mebibytes = int(sum(p.lstat().st_blocks * 512 for p in tree.rglob("*")) * EXT4_SPARE) // (1 << 20) // 32 * 32 + 64
    options = ("-U", UUID, "-E", f"hash_seed={UUID},root_owner=0:0", "-O", "^has_journal")
    for path in (tree, *tree.rglob("*")):
        os.utime(path, (0, 0), follow_symlinks=False)
    _run("mke2fs", "-q", "-t", "ext4", "-d", str(tree), *options, str(image), f"{mebibytes}M", E2FSPROGS_FAKE_TIME="1")


def update_pair(
    folder: Path, update: Sequence[str], rest: Sequence[str], pack: Callable[[Path, Path], None] = erofs
) -> Pair:
    """An image, and the same after its security update.

    Raises:
        NotAvailable: no mirror, no tools, or none of the packages has two versions at present.
    """
    known = versions([*update, *rest])
    changed = {name: tuple(known[name][-2:]) for name in update if len(known.get(name, ())) > 1}
    if not changed:
        raise NotAvailable("the mirror has no package of the list in two versions")
    same = [(name, offered[-1]) for name, offered in known.items() if name not in changed]
    trees = []
    for number, name in enumerate(("base", "target")):
        files = fetch([*same, *((package, pair[number]) for package, pair in changed.items())])
        _unpack(sorted(files), folder / f"{name}.tree")
        trees.append(folder / f"{name}.tree")
    return _packed(folder, trees, pack, tuple(f"{n} {old} -> {new}" for n, (old, new) in changed.items()))


def kernel_pair(folder: Path, parts: Sequence[str]) -> Pair:
    """Two versions of the distribution's kernel: its modules below ``kernel/<part>``, under one and the same path."""
    names = sorted(
        {
            line.split()[-1]
            for v in versions(["linux-image-amd64"])["linux-image-amd64"][-2:]
            for line in _run("apt-cache", "depends", f"linux-image-amd64={v}").splitlines()
            if "Depends: linux-image-" in line
        }
    )
    if len(names) != 2:
        raise NotAvailable("the mirror has no two kernels")
    known = versions(names)
    trees = []
    for name, side in zip(names, ("base", "target"), strict=True):
        whole, tree = folder / f"{side}.whole", folder / f"{side}.tree"
        _unpack(fetch([(name, known[name][-1])]), whole)
        modules = next((whole / "lib" / "modules").iterdir()) / "kernel"
        for part in parts:
            shutil.copytree(modules / part, tree / part)
        shutil.rmtree(whole)
        trees.append(tree)
    return _packed(folder, trees, erofs, (" -> ".join(names),))


def _packed(folder: Path, trees: Sequence[Path], pack: Callable[[Path, Path], None], updated: tuple[str, ...]) -> Pair:
    images = [folder / f"{tree.stem}.image" for tree in trees]
    for tree, image in zip(trees, images, strict=True):
        pack(tree, image)
        shutil.rmtree(tree)
    return Pair(base=images[0], target=images[1], updated=updated)
