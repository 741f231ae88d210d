"""``outrider cloud keys …``: the key ceremony at the command line. Says what it will change, then asks."""

from __future__ import annotations

import argparse
import getpass
import hashlib
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from securesystemslib.signer import CryptoSigner, Key
from tuf.api.metadata import Targets

from cloud.clock import SystemClock
from cloud.command import guarded, print_json, print_table
from cloud.errors import InvalidInput, NotFound
from cloud.updates import ceremony
from cloud.updates.ceremony import Book, Delegation, KeySet, RoleId
from cloud.updates.ceremony_files import CeremonyDirectory, Settings, load_public, load_signer, new_key
from cloud.updates.door import CloudDoor, LocalDoor, RestDoor, decode_file
from cloud.updates.images import SignImage, SignRequest
from cloud.updates.keys import OnlineKeyFile
from cloud.updates.names import DELTAS_ROLE
from cloud.updates.trust import DIRECTOR, IMAGE
from cloud.updates.tuf import to_ns

PASSPHRASE_VARIABLE, TOKEN_VARIABLE = "OUTRIDER_PASSPHRASE", "OUTRIDER_TOKEN"
#: Names of roles at the command line.
OFFLINE_ROLES: dict[str, RoleId] = {
    "director-root": (DIRECTOR, "root"),
    "image-root": (IMAGE, "root"),
    "image-targets": (IMAGE, "targets"),
}
DAY_NS = 86_400_000_000_000


def add_key_commands(parser: argparse.ArgumentParser) -> None:
    """Fill in the verbs of ``outrider cloud keys``."""
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    _add_begin(verbs)
    _verb(verbs, "show", _show, "roles, versions, expiries, keys, and what waits for signatures", changes=False)
    _verb(verbs, "sign", _sign, "sign what waits, with the keys that are here")
    rotate = _verb(verbs, "rotate", _rotate, "other keys for a role")
    rotate.add_argument("role", choices=sorted(OFFLINE_ROLES))
    rotate.add_argument("--new", type=int, default=0, metavar="N", help="make so many new keys in DIR/keys")
    rotate.add_argument("--add", type=Path, action="append", default=[], metavar="PUB", help="public key file to add")
    rotate.add_argument("--remove", action="append", default=[], metavar="KEY", help="name or id (its beginning)")
    rotate.add_argument("--threshold", type=int, metavar="M", help="default: as it is")
    renew = _verb(verbs, "renew", _renew, "a later expiry for offline roles")
    renew.add_argument("roles", nargs="*", metavar="ROLE", help="default: all that expire soon")
    renew.add_argument("--within", type=float, default=60.0, metavar="DAYS", help="what 'soon' is (60)")
    online = _verb(verbs, "online", _online, "name the cloud's newest online keys in the roots")
    _add_online(online)
    new = verbs.add_parser("new-key", help="a key pair: FILE.key and FILE.pub")
    new.add_argument("file", type=Path, metavar="FILE")
    _add_passphrase(new)
    new.set_defaults(run=_new_key)
    _add_delegations(verbs)
    release = _verb(verbs, "sign-release", _sign_release, "sign for images that were uploaded")
    _add_cloud(release)
    release.add_argument("--request", type=Path, metavar="FILE", help="instead of asking a cloud")
    release.add_argument("--role", default="targets", help="targets, or a supplier's role")
    release.add_argument(
        "--image", type=Path, action="append", default=[], metavar="FILE", help="compare with this file"
    )
    release.add_argument("--only", action="append", default=[], metavar="NAME", help="sign for these names alone")
    release.add_argument("--drop", action="append", default=[], metavar="NAME", help="a target to sign for no more")
    fetch = _verb(
        verbs, "fetch", _fetch, "get from the cloud what is signed, for a supplier or a lost copy", changes=False
    )
    _add_cloud(fetch)
    upload = _verb(verbs, "upload", _upload, "bring what is signed to the cloud", changes=False)
    _add_cloud(upload)
    upload.add_argument("--drop", action="append", default=[], metavar="NAME", help="targets that may vanish there")


def _add_begin(verbs: Any) -> None:
    init = _verb(verbs, "init", _init, "begin: make keys, both roots, and the first targets")
    _add_online(init)
    for role, keys, threshold in (("root", 3, 2), ("targets", 2, 1)):
        init.add_argument(f"--{role}-keys", type=int, default=keys, metavar="N", help=f"default: {keys}")
        init.add_argument(f"--{role}-threshold", type=int, default=threshold, metavar="M", help=f"default: {threshold}")
    quick = verbs.add_parser(
        "quick-start", help="for benches: unprotected keys, thresholds of 1, into the cloud at once"
    )
    quick.add_argument("directory", type=Path, metavar="DIR")
    _add_cloud(quick)
    quick.add_argument("--json", action="store_true", help="machine-readable output")
    quick.set_defaults(run=_quick_start)


def _add_delegations(verbs: Any) -> None:
    add = _verb(verbs, "delegate", _delegate, "let a supplier sign for some images, or change that")
    add.add_argument("name", metavar="NAME", help="of the supplier's role")
    add.add_argument("--public", type=Path, action="append", required=True, metavar="PUB", help="public key file")
    add.add_argument("--threshold", type=int, default=1, metavar="M")
    add.add_argument("--path", action="append", required=True, metavar="PATTERN", help="such as 'brakes/*'")
    add.add_argument("--hardware-id", action="append", default=[], metavar="ID", help="default: any")
    add.add_argument("--terminating", action="store_true", help="nobody after it may speak for these paths")
    add.add_argument("--by", default="targets", metavar="ROLE", help="who delegates (targets)")
    remove = _verb(verbs, "undelegate", _undelegate, "end what a supplier may sign for")
    remove.add_argument("name", metavar="NAME")
    remove.add_argument("--by", default="targets", metavar="ROLE")


def _verb(verbs: Any, name: str, run: Callable[[argparse.Namespace], int], text: str, *, changes: bool = True) -> Any:
    sub = verbs.add_parser(name, help=text)
    sub.add_argument("directory", type=Path, metavar="DIR", help="the ceremony's directory")
    sub.add_argument("--json", action="store_true", help="machine-readable output")
    if changes:
        sub.add_argument("--key", type=Path, action="append", default=[], metavar="FILE", help="private keys elsewhere")
        sub.add_argument("--yes", action="store_true", help="do not ask")
        sub.add_argument("--dry-run", action="store_true", help="only say what would change")
        _add_passphrase(sub)
    sub.set_defaults(run=run)
    return sub


def _add_passphrase(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--passphrase-file", type=Path, metavar="FILE", help=f"of private keys; else ${PASSPHRASE_VARIABLE}, else asked"
    )
    parser.add_argument("--no-passphrase", action="store_true", help="make keys that anyone who has the file can use")


def _add_online(parser: argparse.ArgumentParser) -> None:
    _add_cloud(parser)
    parser.add_argument("--online", type=Path, metavar="FILE", help="of 'outrider cloud releases online-keys'")


def _add_cloud(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cloud", default="", metavar="URL", help="its operator port, by REST")
    parser.add_argument("--token-file", type=Path, metavar="FILE", help=f"bearer token; else ${TOKEN_VARIABLE}")
    parser.add_argument("--config", type=Path, metavar="FILE", help="cloud.toml, when the cloud is on this machine")


def _door(args: argparse.Namespace) -> CloudDoor:
    if args.config is not None:
        return LocalDoor(args.config)
    if not args.cloud:
        raise InvalidInput("which cloud? give --cloud URL or --config FILE")
    token = args.token_file.read_text("utf-8").strip() if args.token_file else os.environ.get(TOKEN_VARIABLE, "")
    if not token:
        raise InvalidInput(f"no token: --token-file or ${TOKEN_VARIABLE}")
    return RestDoor(args.cloud, token)


class _Passphrases:
    """Asks at most once for the same passphrase."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._file: Path | None = args.passphrase_file
        self._known: bytes | None = None
        if self._file is not None:
            lines = self._file.read_bytes().splitlines()
            self._known = lines[0] if lines else b""
        elif PASSPHRASE_VARIABLE in os.environ:
            self._known = os.environ[PASSPHRASE_VARIABLE].encode()

    def of(self, path: Path) -> bytes:
        """For an encrypted key."""
        if self._known is None:
            if not sys.stdin.isatty():
                raise InvalidInput(f"{path} needs a passphrase: --passphrase-file or ${PASSPHRASE_VARIABLE}")
            self._known = getpass.getpass(f"Passphrase of {path.name}: ").encode()
        return self._known

    def new(self) -> bytes:
        """For keys to be made."""
        if self._known is None:
            if not sys.stdin.isatty():
                text = f"new keys need a passphrase: --passphrase-file, ${PASSPHRASE_VARIABLE} or --no-passphrase"
                raise InvalidInput(text)
            first, again = getpass.getpass("New passphrase: "), getpass.getpass("Again: ")
            if first != again or len(first) < 8:
                raise InvalidInput("the two are not the same, or shorter than 8 characters")
            self._known = first.encode()
        if len(self._known) < 8:
            raise InvalidInput("a passphrase has 8 or more characters")
        return self._known


@dataclass(slots=True)
class _Table:
    """The ceremony's directory, opened."""

    args: argparse.Namespace
    files: CeremonyDirectory
    book: Book
    secrets: _Passphrases
    now_ns: int

    def names(self) -> dict[str, str]:
        """Key id -> name, of the keys in the directory."""
        return {key.keyid: name for name, key in self.files.public_keys().items()}

    def signers(self) -> list[CryptoSigner]:
        """All private keys at hand."""
        return [load_signer(path, self.secrets.of) for path in [*self.files.key_files(), *self.args.key]]

    def make_keys(self, role: str, count: int) -> list[Key]:
        """New keys in ``keys/``, numbered on."""
        secret = None if self.args.no_passphrase else self.secrets.new()
        taken = {path.name for path in self.files.key_files()}
        made: list[Key] = []
        number = 0
        while len(made) < count:
            number += 1
            if f"{role}-{number}.key" not in taken:
                made.append(new_key(self.files.path / "keys" / f"{role}-{number}", secret))
        return made


def _open(args: argparse.Namespace, *, must_exist: bool = True) -> _Table:
    files = CeremonyDirectory(args.directory)
    if must_exist:
        files.must_exist()
    return _Table(args, files, files.book(), _Passphrases(args), SystemClock().now_ns())


def _online_keys(args: argparse.Namespace) -> dict[str, Key]:
    file = decode_file(args.online, OnlineKeyFile) if args.online else _door(args).online_keys()
    return ceremony.online_keys(file)


def _agreed(args: argparse.Namespace, lines: Sequence[str]) -> bool:
    """Show what will be changed and ask."""
    for line in lines:
        print(line, file=sys.stderr if args.json else sys.stdout)
    if args.dry_run:
        return False
    if args.yes:
        return True
    if not sys.stdin.isatty():
        raise InvalidInput("no terminal to ask on; say --yes")
    return input("Sign this? [y/N] ").strip().lower() in {"y", "yes"}


def _conclude(table: _Table, lines: Sequence[str]) -> int:
    """Ask, sign with what is at hand, save, and tell what is still missing."""
    if not table.book.pending:
        print("nothing to change", file=sys.stderr if table.args.json else sys.stdout)
        return os.EX_OK
    if not _agreed(table.args, lines):
        return os.EX_OK if table.args.dry_run else os.EX_NOPERM
    done = table.files.sign(table.book, table.signers())
    if table.args.json:
        print_json(_facts(table.files, table.book))
        return os.EX_OK
    for repository, role in done:
        print(f"signed   {repository}/{table.book.signed[repository, role].signed.version}.{role}.json")
    for (repository, role), metadata in table.book.pending.items():
        have = len(set(metadata.signatures) & table.book.signers_of(repository, role))
        print(f"waiting  {repository}/{metadata.signed.version}.{role}.json: {have} signatures, more are needed")
    return os.EX_OK


def _init(args: argparse.Namespace) -> int:
    def work() -> int:
        table = _open(args, must_exist=False)
        if table.files.exists:
            print(f"{args.directory}: a ceremony has begun here already")
            return os.EX_OK
        counts = (args.root_keys, args.root_threshold, args.targets_keys, args.targets_threshold)
        if not (1 <= counts[1] <= counts[0] <= 20 and 1 <= counts[3] <= counts[2] <= 20):
            raise InvalidInput("thresholds are 1 to the number of keys, at most 20")
        online = _online_keys(args)
        lines = [
            f"Director root and Image root: {counts[1]} of {counts[0]} keys; Image targets: {counts[3]} of {counts[2]}",
            *(f"online   {role}: {key.keyid[:16]}" for role, key in online.items()),
        ]
        if not _agreed(args, lines):
            return os.EX_OK if args.dry_run else os.EX_NOPERM
        args.yes = True
        _begin(table, online, *counts)
        table.files.save_settings(Settings())
        return _conclude(table, [])

    return guarded(work)


def _begin(table: _Table, online: dict[str, Key], keys: int, threshold: int, more: int, more_threshold: int) -> None:
    sets = [
        KeySet(keys=table.make_keys(name, count), threshold=needed)
        for name, count, needed in (
            ("director-root", keys, threshold),
            ("image-root", keys, threshold),
            ("image-targets", more, more_threshold),
        )
    ]
    ceremony.begin(table.book, sets[0], sets[1], sets[2], online, table.files.settings.lives, table.now_ns)


def _quick_start(args: argparse.Namespace) -> int:
    def work() -> int:
        args.key, args.passphrase_file, args.no_passphrase, args.yes, args.dry_run = [], None, True, True, False
        door = _door(args)
        table = _open(args, must_exist=False)
        if not table.files.exists:
            online = ceremony.online_keys(door.online_keys())
            _begin(table, online, 1, 1, 1, 1)
            table.files.save_settings(Settings(is_bench=True))
            table.files.sign(table.book, table.signers())
        added = [name for repo in (DIRECTOR, IMAGE) for name in door.push(repo, table.files.files(repo)).added]
        roots = {f"{repo}_root": str(table.files.path / repo / "1.root.json") for repo in (DIRECTOR, IMAGE)}
        if args.json:
            print_json({"directory": str(args.directory), "added": added, **roots})
            return os.EX_OK
        print("FOR A BENCH ONLY: the keys in this directory are not protected, and one is enough for everything")
        for name, path in roots.items():
            print(f"{name.replace('_', ' '):14}{path}   (for the vehicle's read-only image)")
        print(f"cloud         {', '.join(added) or 'had everything'}")
        return os.EX_OK

    return guarded(work)


def _facts(files: CeremonyDirectory, book: Book) -> dict[str, Any]:
    names = {key.keyid: name for name, key in files.public_keys().items()}
    roles = []
    for is_pending, found in ((False, book.signed), (True, book.pending)):
        for (repository, role), metadata in sorted(found.items()):
            wanted = book.signers_of(repository, role)
            roles.append(
                {
                    "repository": repository,
                    "role": role,
                    "version": metadata.signed.version,
                    "expires_ns": to_ns(metadata.signed.expires),
                    "is_pending": is_pending,
                    "signed_by": [names.get(keyid, keyid) for keyid in metadata.signatures],
                    "keys": sorted(names.get(keyid, keyid) for keyid in wanted),
                    "targets": len(metadata.signed.targets) if isinstance(metadata.signed, Targets) else None,
                }
            )
    return {"directory": str(files.path), "is_bench": files.settings.is_bench, "roles": roles}


def _show(args: argparse.Namespace) -> int:
    def work() -> int:
        files = CeremonyDirectory(args.directory)
        files.must_exist()
        facts = _facts(files, files.book())
        if args.json:
            print_json(facts)
            return os.EX_OK
        if files.settings.is_bench:
            print("FOR A BENCH ONLY")
        now_ns = SystemClock().now_ns()
        rows = [
            [
                f"{role['repository']}/{role['version']}.{role['role']}.json",
                "waiting" if role["is_pending"] else "in force",
                datetime.fromtimestamp(role["expires_ns"] / 1e9, UTC).strftime("%Y-%m-%d"),
                f"{(role['expires_ns'] - now_ns) / DAY_NS:.0f} d",
                ", ".join(str(name)[:20] for name in role["signed_by"]),
            ]
            for role in facts["roles"]
        ]
        print_table(["FILE", "STATE", "EXPIRES", "LEFT", "SIGNED BY"], rows)
        return os.EX_OK

    return guarded(work)


def _sign(args: argparse.Namespace) -> int:
    def work() -> int:
        table = _open(args)
        return _conclude(table, [_line(table, role) for role in table.book.pending])

    return guarded(work)


def _line(table: _Table, role: RoleId) -> str:
    metadata = table.book.newest(*role)
    expires = metadata.signed.expires.strftime("%Y-%m-%d")
    return f"will sign  {role[0]}/{metadata.signed.version}.{role[1]}.json, good until {expires}"


def _rotate(args: argparse.Namespace) -> int:
    def work() -> int:
        table = _open(args)
        repository, role = OFFLINE_ROLES[args.role]
        root = table.book.newest(repository, "root").signed
        now = [root.keys[keyid] for keyid in root.roles[role].keyids]
        names = table.names()
        gone = {key.keyid for key in now if any(_is_named(key, names, text) for text in args.remove)}
        if len(gone) < len(set(args.remove)):
            raise NotFound(f"one of {', '.join(args.remove)} is no key of {args.role}")
        threshold = args.threshold or root.roles[role].threshold
        kept = [key for key in now if key.keyid not in gone] + [load_public(path) for path in args.add]
        if len(kept) + args.new < threshold:
            raise InvalidInput(f"{len(kept) + args.new} keys cannot reach a threshold of {threshold}")
        lines = [f"{args.role}: {threshold} of {len(kept) + args.new} keys, {len(gone)} removed, {args.new} new"]
        if not _agreed(args, lines):
            return os.EX_OK if args.dry_run else os.EX_NOPERM
        args.yes = True
        keys = KeySet(keys=[*kept, *table.make_keys(args.role, args.new)], threshold=threshold)
        changed = ceremony.rotate(table.book, repository, role, keys, table.files.settings.lives, table.now_ns)
        return _conclude(table, [_line(table, one) for one in changed])

    return guarded(work)


def _is_named(key: Key, names: dict[str, str], text: str) -> bool:
    return names.get(key.keyid) == text or (len(text) >= 8 and key.keyid.startswith(text))


def _renew(args: argparse.Namespace) -> int:
    def work() -> int:
        table = _open(args)
        soon_ns = table.now_ns + int(args.within * DAY_NS)
        known = {**{role: name for name, role in OFFLINE_ROLES.items()}}
        roles = [
            role
            for role, metadata in table.book.signed.items()
            if (known.get(role, role[1]) in args.roles) or (not args.roles and to_ns(metadata.signed.expires) < soon_ns)
        ]
        if len(roles) < len(set(args.roles)):
            raise NotFound(f"roles here: {', '.join(known.get(role, role[1]) for role in table.book.signed)}")
        changed = ceremony.renew(table.book, roles, table.files.settings.lives, table.now_ns)
        return _conclude(table, [_line(table, one) for one in changed])

    return guarded(work)


def _online(args: argparse.Namespace) -> int:
    def work() -> int:
        table = _open(args)
        online = _online_keys(args)
        changed = ceremony.use_online(table.book, online, table.files.settings.lives, table.now_ns)
        keys = [f"online   {role}: {key.keyid[:16]}" for role, key in online.items()]
        return _conclude(table, [*keys, *(_line(table, one) for one in changed)])

    return guarded(work)


def _new_key(args: argparse.Namespace) -> int:
    def work() -> int:
        secret = None if args.no_passphrase else _Passphrases(args).new()
        made = new_key(args.file, secret)
        print(f"{made.keyid}  {args.file.with_name(args.file.name.removesuffix('.key'))}.pub")
        return os.EX_OK

    return guarded(work)


def _delegate(args: argparse.Namespace) -> int:
    def work() -> int:
        table = _open(args)
        wanted = Delegation(
            name=args.name,
            keys=KeySet(keys=[load_public(path) for path in args.public], threshold=args.threshold),
            paths=args.path,
            hardware_ids=args.hardware_id,
            terminating=args.terminating,
        )
        changed = ceremony.delegate(table.book, args.by, wanted, table.files.settings.lives, table.now_ns)
        limits = f"{', '.join(args.path)} for {', '.join(args.hardware_id) or 'any hardware'}"
        return _conclude(table, [f"{args.name} may sign for {limits}", *(_line(table, one) for one in changed)])

    return guarded(work)


def _undelegate(args: argparse.Namespace) -> int:
    def work() -> int:
        table = _open(args)
        changed = ceremony.undelegate(table.book, args.by, args.name, table.files.settings.lives, table.now_ns)
        return _conclude(table, [f"{args.name} may sign for nothing", *(_line(table, one) for one in changed)])

    return guarded(work)


def _sign_release(args: argparse.Namespace) -> int:
    def work() -> int:
        table = _open(args)
        if args.role == DELTAS_ROLE:
            raise InvalidInput(f"{DELTAS_ROLE} is signed by the cloud")
        given = decode_file(args.request, SignRequest) if args.request else _door(args).sign_request()
        images = [one for one in given.images if not args.only or one.file.filename in args.only]
        if missing := set(args.only) - {one.file.filename for one in images}:
            raise NotFound(f"{', '.join(sorted(missing))}: not in the request")
        images = [one for one in images if args.only or one.role == args.role]
        checked = _checked(args.image, images)
        names = ceremony.sign_for(
            table.book, args.role, images, table.files.settings.lives, table.now_ns, drop=args.drop
        )
        lines = [f"{'drop' if one in args.drop else 'sign'}  {one}" for one in names] + [
            _describe(one, one.file.filename in checked) for one in images if one.file.filename in names
        ]
        return _conclude(table, lines)

    return guarded(work)


def _checked(paths: Iterable[Path], images: Sequence[SignImage]) -> set[str]:
    """Names of images whose content was compared with a local file. ``InvalidInput``: a file is none of them."""
    found = set()
    for path in paths:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha512").hexdigest()
        same = [one.file.filename for one in images if one.file.hashes.get("sha512") == digest]
        if not same:
            raise InvalidInput(f"{path}: none of the images to be signed has this content")
        found.update(same)
    return found


def _describe(image: SignImage, is_checked: bool) -> str:
    must = image.must_match
    return (
        f"      {must.kind} {must.version}, counter {must.release_counter}, for {', '.join(must.hardware_ids)},"
        f" {image.file.length:,} bytes, sha256 {image.file.hashes['sha256']}"
        f"{' (equal to the local file)' if is_checked else ''}"
    )


def _fetch(args: argparse.Namespace) -> int:
    def work() -> int:
        files, door = CeremonyDirectory(args.directory), _door(args)
        added = {repo: files.add(repo, door.pull(repo)) for repo in (DIRECTOR, IMAGE)}
        if not files.exists:
            files.save_settings(Settings())
        if args.json:
            print_json(added)
            return os.EX_OK
        for repo, names in added.items():
            print(f"{repo:10}{', '.join(names) or 'nothing new'}")
        return os.EX_OK

    return guarded(work)


def _upload(args: argparse.Namespace) -> int:
    def work() -> int:
        files = CeremonyDirectory(args.directory)
        door = _door(args)
        repositories = [repo for repo in (DIRECTOR, IMAGE) if files.files(repo)]
        if not repositories:
            raise NotFound(f"{args.directory}: nothing is signed here")
        taken = {repo: door.push(repo, files.files(repo), args.drop) for repo in repositories}
        if args.json:
            print_json(taken)
            return os.EX_OK
        for repo, one in taken.items():
            print(f"{repo:10}{', '.join(one.added) or 'the cloud had everything'}")
            for warning in one.warnings:
                print(f"warning   {warning}")
        return os.EX_OK

    return guarded(work)
