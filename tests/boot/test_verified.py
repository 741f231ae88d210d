"""Verified boot: U-Boot starts what is signed with its key and refuses everything else, in one run."""

from __future__ import annotations

import re
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from tests.boot import disk
from tests.boot.machine import Machine
from tests.boot.parts import LOADER, Parts

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ADDRESS = 0x48000000
#: In the order in which U-Boot is asked to start them. The last one is a Linux; the others are small and never run.
IMAGES = ("data changed", "command line changed", "not signed", "other key", "signed", "linux")

_ITS = """\
/dts-v1/;
/ {{
    description = "slot";
    #address-cells = <1>;
    images {{
        kernel {{
            data = /incbin/("{kernel}");
            type = "kernel"; arch = "arm64"; os = "linux"; compression = "none";
            load = <0x40400000>; entry = <0x40400000>;
            hash {{ algo = "sha256"; }};
        }};
        ramdisk {{
            data = /incbin/("{ramdisk}");
            type = "ramdisk"; arch = "arm64"; os = "linux"; compression = "none";
            hash {{ algo = "sha256"; }};
        }};
    }};
    configurations {{
        default = "slot";
        slot {{
            kernel = "kernel"; ramdisk = "ramdisk"; compatible = "good-board";
            {signature}
        }};
    }};
}};
"""
_SIGNATURE = 'signature {{ algo = "sha256,rsa2048"; key-name-hint = "{key}"; sign-images = "kernel", "ramdisk"; }};'


def make_key(folder: Path, name: str) -> None:
    """A private key and a certificate, as mkimage wants them."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem, none = serialization.Encoding.PEM, serialization.NoEncryption()
    (folder / f"{name}.key").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.TraditionalOpenSSL, none))
    (folder / f"{name}.crt").write_bytes(certificate.public_bytes(pem))


def make_image(folder: Path, name: str, content: dict[str, Path], key: str, tree: Path) -> bytes:
    """A FIT image, signed with ``key`` unless that is empty; its public half goes into ``tree``."""
    signature = _SIGNATURE.format(key=key) if key else ""
    its, made = folder / f"{name}.its", folder / f"{name}.itb"
    its.write_text(_ITS.format(kernel=content["kernel"], ramdisk=content["ramdisk"], signature=signature))
    signing: tuple[str | Path, ...] = ("-K", tree, "-k", folder, "-r") if key else ()
    disk.run("mkimage", "-f", its, *signing, made)
    return made.read_bytes()


@pytest.fixture(scope="module")
def console(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What a board said that was asked to start each of ``IMAGES``."""
    folder = tmp_path_factory.mktemp("verified")
    tree, other = folder / "board.dtb", folder / "other.dtb"
    # With the loader, since QEMU gives a machine without one other devices.
    disk.run("qemu-system-aarch64", "-M", f"virt,dumpdtb={tree}", "-cpu", "cortex-a53", "-m", "256", "-bios", LOADER)
    shutil.copy(tree, other)
    for name in ("dev", "thief"):
        make_key(folder, name)
    (folder / "small").write_bytes(disk.hanging_kernel())
    (folder / "note").write_bytes(b"an initramfs would be here, says the signed one")
    small = {"kernel": folder / "small", "ramdisk": folder / "note"}
    linux = {"kernel": parts.kernel, "ramdisk": disk.initramfs(folder, parts)}
    signed = make_image(folder, "signed", small, "dev", tree)
    images = {
        "data changed": signed.replace(b"says the signed one", b"says the changed on"),
        "command line changed": signed.replace(b"good-board", b"evil-board"),
        "not signed": make_image(folder, "unsigned", small, "", tree),
        "other key": make_image(folder, "other", small, "thief", other),
        "signed": signed,
        "linux": make_image(folder, "linux", linux, "dev", tree),
    }
    image, place, script = folder / "disk.img", 1 << 20, ["virtio scan"]
    image.touch()
    for name in IMAGES:
        content = images[name].ljust(-len(images[name]) % 512 + len(images[name]), b"\0")
        disk.write(image, place, content)
        script.append(f"echo === {name}; virtio read {ADDRESS:#x} {place // 512:#x} {len(content) // 512:#x}")
        # "start" verifies and stops there.
        start = (
            f"bootm start {ADDRESS:#x}#slot"
            if name != "linux"
            else f"bootm {ADDRESS:#x}#slot {ADDRESS:#x}#slot ${{fdtcontroladdr}}"
        )
        script.append(f"if {start}; then echo === accepted; else echo === refused; fi")
        place += len(content)
    variables = {
        "bootdelay": "-2",
        "bootargs": "console=ttyAMA0 quiet panic=-1 rauc.slot=A",
        "bootcmd": "; ".join(script),
    }
    with Machine(disk.flash(folder, variables), image, options=["-dtb", str(tree)]) as machine:
        machine.wait_for_guest()
        return machine.log


def part(console: str, name: str) -> str:
    """What was said about one image."""
    found = re.search(rf"^=== {name}\n(.*?)(?====|\Z)(=== \w+)?", console, re.MULTILINE | re.DOTALL)
    assert found, name
    return found[0]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("data changed", "Bad Data Hash"),
        ("command line changed", "Verification failed|Failed to verify required signature"),
        ("not signed", "Failed to verify required signature"),
        ("other key", "Failed to verify required signature"),
    ],
)
def test_what_is_not_signed_as_it_is_gets_refused(console: str, name: str, why: str) -> None:
    said = part(console, name)
    assert re.search(why, said), said
    assert said.endswith("=== refused")


def test_what_is_signed_is_accepted_and_boots(console: str) -> None:
    assert part(console, "signed").endswith("=== accepted")
    linux = part(console, "linux")
    assert "sha256,rsa2048:dev+ OK" in linux
    assert "GUEST slot A ready" in linux
