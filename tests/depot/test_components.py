"""What a package provides: small packages made here, Debian's own kernels against depmod (root)."""

from __future__ import annotations

import io
import lzma
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from agent.depot.component_xml import dump_component, load_component
from agent.depot.components import component_from_deb
from agent.errors import DamagedError
from agent.model.drivers import KernelIndex, flavour_of
from tests.model.debian_kernel import kernel_package, package, unpacked_kernel


def elf(modinfo: bytes) -> bytes:
    """The smallest 64-bit ELF file with a .modinfo section."""
    names = b"\0.modinfo\0.shstrtab\0"
    start = 64
    sections = [(0, 0, 0), (1, start, len(modinfo)), (10, start + len(modinfo), len(names))]
    table = start + len(modinfo) + len(names)
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 1, 62, 1, 0, 0, table, 0, 64, 0, 0, 64, len(sections), 2)
    rows = b"".join(struct.pack("<IIQQQQIIQQ", name, 1, 0, 0, at, size, 0, 0, 1, 0) for name, at, size in sections)
    return header + modinfo + names + rows


def tar(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


def deb(path: Path, control: str, files: dict[str, bytes], suffix: str = ".xz",
        pack: Callable[[bytes], bytes] = lzma.compress) -> Path:  # fmt: skip
    members = {
        "debian-binary": b"2.0\n",
        f"control.tar{suffix}": pack(tar({"control": control.encode()})),
        f"data.tar{suffix}": pack(tar(files)),
    }
    out = b"!<arch>\n"
    for name, data in members.items():
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)
    path.write_bytes(out)
    return path


CONTROL = """Package: linux-image-6.1.0-9-amd64
Version: 6.1.9-1
Architecture: amd64
Maintainer: Debian Kernel Team <x@example.org>
Depends: kmod, linux-base (>= 4.3~),
 initramfs-tools (>= 0.120) | linux-initramfs-tool
Description: a kernel
 of several lines: with colons
"""
MODULE = elf(b"alias=pci:v00008086d000010D3sv*sd*bc*sc*i*\0firmware=e1000e.fw\0license=GPL\0")
BELOW = "lib/modules/6.1.0-9-amd64"
FILES = {
    "boot/vmlinuz-6.1.0-9-amd64": b"kernel",
    f"{BELOW}/kernel/drivers/net/e1000e.ko": MODULE,
    f"{BELOW}/kernel/drivers/x/dash-ed.ko.xz": lzma.compress(elf(b"alias=of:N*T*Cx\0")),
    f"{BELOW}/kernel/drivers/x/zed.ko.zst": zstandard.compress(elf(b"alias=acpi*:X:*\0")),
    f"{BELOW}/modules.builtin": b"kernel/drivers/nvme/host/nvme-core.ko\nkernel/fs/x.ko\n",
}
PACKS: dict[str, Callable[[bytes], bytes]] = {".xz": lzma.compress, ".zst": zstandard.compress, "": bytes}


@pytest.mark.parametrize("suffix", PACKS)
def test_a_kernel_package_says_what_it_drives(tmp_path: Path, suffix: str) -> None:
    component, payload = component_from_deb(deb(tmp_path / "k.deb", CONTROL, FILES, suffix, PACKS[suffix]))
    assert (component.id, component.version, component.kind) == ("linux-image-6.1.0-9-amd64", "6.1.9-1", "kernel")
    assert (component.kernel_release, component.flavour, component.for_os) == ("6.1.0-9-amd64", "amd64", "debian")
    assert component.modules == ("dash_ed", "e1000e", "zed")
    assert component.builtin == ("nvme_core", "x")
    assert component.needs_firmware == ("e1000e.fw e1000e",)
    assert component.depends[1:] == ("linux-base (>= 4.3~)", "initramfs-tools (>= 0.120) | linux-initramfs-tool")
    assert payload == (tmp_path / "k.deb",)
    assert KernelIndex.from_component(component).match("pci:v00008086d000010D3sv0sd0bc02sc00i00") == ("e1000e",)


def test_other_kinds(tmp_path: Path) -> None:
    head = "Package: {}\nVersion: 1:2.0~rc1-1\nArchitecture: all\n"
    kinds = {
        "firmware-x": ({"lib/firmware/x/a.bin": b"1"}, "firmware"),
        "microcode-x": ({"lib/firmware/intel-ucode/06": b"1"}, "microcode"),
        "driver-x": ({f"{BELOW}/updates/y.ko": MODULE}, "driver"),
        "grub-x": ({"usr/lib/grub/x86_64-efi/kernel.img": b"1"}, "loader"),
        "meta-x": ({"usr/share/doc/meta-x/copyright": b"1"}, "other"),
    }
    for name, (files, kind) in kinds.items():
        component, _ = component_from_deb(deb(tmp_path / f"{name}.deb", head.format(name), files), "debian 12")
        assert (component.kind, component.for_os) == (kind, "debian 12")
        assert ":" not in component.payload[0].path


def test_the_document_returns_what_was_written(tmp_path: Path) -> None:
    component, _ = component_from_deb(deb(tmp_path / "k.deb", CONTROL, FILES))
    document = dump_component(component)
    assert load_component(document) == component
    assert dump_component(load_component(document)) == document


@pytest.mark.parametrize(
    ("find", "put", "says"),
    [
        (b"<component ", b"<!DOCTYPE x><component ", "DOCTYPE"),
        (b' kind="kernel"', b' kind="toy"', "kind is 'toy'"),
        (b' id="linux', b' id="../linux', "id is '../linux"),
        (b"<module ", b"<surprise/><module ", "unknown element"),
        (b'<module name="e1000e"', b'<module colour="red" name="e1000e"', "unknown attribute colour"),
        (b'sha256="', b'sha256="Z', "sha256"),
        (b"</component>", b"", "not XML"),
        (b"urn:regraft:component:1", b"urn:other", "begins with"),
    ],
)
def test_a_document_with_anything_odd_is_refused(tmp_path: Path, find: bytes, put: bytes, says: str) -> None:
    document = dump_component(component_from_deb(deb(tmp_path / "k.deb", CONTROL, FILES))[0])
    assert find in document
    with pytest.raises(DamagedError, match=says):
        load_component(document.replace(find, put, 1))


def test_what_is_no_package_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.deb"
    for data, says in ((b"hello", "not a Debian package"), (b"!<arch>\n" + b"x" * 60, "ar header at byte 8")):
        path.write_bytes(data)
        with pytest.raises(DamagedError, match=says):
            component_from_deb(path)
    whole = deb(path, CONTROL, FILES).read_bytes()
    path.write_bytes(whole[: len(whole) - 400])
    with pytest.raises(DamagedError, match="archive is damaged"):
        component_from_deb(path)
    with pytest.raises(DamagedError, match="name is"):
        component_from_deb(deb(path, CONTROL.replace("Package: ", "Package: ../"), FILES))


@pytest.mark.parametrize(
    ("release", "flavour"),
    [
        ("6.1.0-56-cloud-amd64", "cloud-amd64"),
        ("6.1.0-56-amd64", "amd64"),
        ("6.8.0-31-generic", "generic"),
        ("6.12.38+deb13-amd64", "amd64"),
        ("6.12.9+bpo-cloud-amd64", "cloud-amd64"),
        ("6.18.0", ""),
    ],
)
def test_flavours(release: str, flavour: str) -> None:
    assert flavour_of(release) == flavour


@pytest.mark.root
def test_a_debian_kernel_provides_what_depmod_finds() -> None:
    root, release = unpacked_kernel("cloud-amd64")
    component, _ = component_from_deb(kernel_package("cloud-amd64"))
    below = root / "lib/modules" / release
    lines = [line[6:] for line in (below / "modules.alias").read_text().splitlines() if line.startswith("alias ")]
    assert sorted(component.modaliases) == sorted(lines)
    assert len(component.modules) == len((below / "modules.dep").read_text().splitlines())
    assert component.kernel_release == release and component.flavour == "cloud-amd64"


@pytest.mark.root
def test_the_metapackage_alone_provides_nothing_but_is_taken() -> None:
    component, _ = component_from_deb(package("linux-image-amd64"))
    assert (component.kind, component.modules, component.kernel_release) == ("other", (), "")
    assert component.depends[0].startswith("linux-image-6.")
