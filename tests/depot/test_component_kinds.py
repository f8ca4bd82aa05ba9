"""Components from rpms, directories and archives; those that are refused; the commands that keep them."""

from __future__ import annotations

import io
import lzma
import tarfile
from pathlib import Path
from typing import Any

import pytest
import zstandard
from click.testing import CliRunner

from agent.cli import cli
from agent.depot.components import Said, add_component, list_components
from agent.depot.local import LocalDepot
from agent.depot.rpm_package import read_rpm
from agent.depot.signing import trusted_keys
from agent.errors import RegraftError
from agent.model.image import Component
from tests import rpms
from tests.depot.test_components import CONTROL, deb, elf

RELEASE = "5.14.0-427.el9.x86_64"
MODULE = elf(b"alias=pci:v00001000d0000005D*\0firmware=mega/raid.bin\0vermagic=5.14.0-427.el9.x86_64 SMP mod_unload\0")


@pytest.fixture
def depot(tmp_path: Path) -> LocalDepot:
    return LocalDepot.init(tmp_path / "depot")


def known(depot: LocalDepot) -> dict[str, Component]:
    return {one.id: one for one in list_components(depot, trusted_keys(depot, ()))}


def lay(top: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        place = top / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    return top


def archive(path: Path, *members: tuple[str, bytes | str, bytes]) -> Path:
    """A tar archive of (name, content or link target, type)."""
    with tarfile.open(path, "w:gz") as out:
        for name, value, kind in members:
            member = tarfile.TarInfo(name)
            member.type = kind
            if isinstance(value, str):
                member.linkname = value
            else:
                member.size = len(value)
            out.addfile(member, io.BytesIO(value if isinstance(value, bytes) else b""))
    return path


def payload(depot: LocalDepot, one: Component) -> dict[str, bytes]:
    data = depot.read(f"components/{one.id}/{one.version}/{one.payload[0].path}")
    with tarfile.open(fileobj=io.BytesIO(zstandard.ZstdDecompressor().stream_reader(data).read())) as tar:
        return {m.name: (tar.extractfile(m) or io.BytesIO()).read() if m.isfile() else m.linkname.encode() for m in tar}


# --- rpm --------------------------------------------------------------------------------------------------------------


@pytest.mark.tools
@pytest.mark.parametrize("compressor", ["w19.zstdio", "w6.xzdio", "w9.gzdio"])
@pytest.mark.adapts("D1", "T1")
def test_an_rpm_says_what_it_drives_and_needs(tmp_path: Path, depot: LocalDepot, compressor: str) -> None:
    below = f"/lib/modules/{RELEASE}/kernel/drivers/scsi"
    package = rpms.build(
        tmp_path, "kernel-modules", "5.14.0", "427.el9", architecture="x86_64",
        head=f"Vendor: Rocky Enterprise Software Foundation\nRequires: kernel-core-uname-r = {RELEASE}, /bin/sh\n"
        f"Requires: (linux-firmware if dracut)\n%define _binary_payload {compressor}",
        files={f"{below}/megaraid_sas.ko": MODULE, f"{below}/x-y.ko.xz": lzma.compress(MODULE)},
    )  # fmt: skip
    found = add_component(depot, package, Said(models=(("Dell*", "PowerEdge*"),))).component
    assert known(depot)["kernel-modules"] == found
    assert (found.kind, found.kernel_release, found.version) == ("driver", RELEASE, "5.14.0-427.el9")
    assert (found.for_os, found.package_format, found.architecture) == ("rocky 9", "rpm", "x86_64")
    assert found.modules == ("megaraid_sas", "x_y")
    assert "pci:v00001000d0000005D* megaraid_sas" in found.modaliases
    assert "mega/raid.bin megaraid_sas" in found.needs_firmware
    assert f"kernel-core-uname-r = {RELEASE}" in found.depends and "(linux-firmware if dracut)" in found.depends
    assert "rpm:requires" in found.control and found.models == (("Dell*", "PowerEdge*"),)


@pytest.mark.tools
@pytest.mark.parametrize(
    ("vendor", "distribution", "release", "system"),
    [("Fedora Project", "Fedora Project", "1.fc40", "fedora 40"),
     ("Fedora Project", "Fedora Project", "1.el9", "el 9"),  # EPEL
     ("Red Hat, Inc.", "Red Hat Enterprise Linux", "427.el9_4", "rhel 9"),
     ("SUSE LLC <https://www.suse.com/>", "SUSE Linux Enterprise 15", "150600.23.7.3", "sles 15"),
     ("SUSE LLC <https://www.suse.com/>", "", "1", "sles"),
     ("SUSE LLC <https://www.suse.com/>", "SUSE Liberty Linux 9", "1.el9", ""),
     ("openSUSE", "openSUSE Leap 15.6", "lp156.1.1", "opensuse-leap"),
     ("openSUSE", "openSUSE Tumbleweed", "1.1", "opensuse-tumbleweed"), ("openSUSE", "", "1.1", ""),
     ("obs://build.opensuse.org/home:x", "home:x / openSUSE_Tumbleweed", "1.1", "opensuse-tumbleweed"),
     ("obs://build.opensuse.org/home:x", "home:x / standard", "1.1", ""), ("Somebody", "", "1.el9", "")],
)  # fmt: skip
@pytest.mark.adapts("D1", "T1")
def test_an_rpm_is_for_the_system_that_its_vendor_and_release_say(
    tmp_path: Path, vendor: str, distribution: str, release: str, system: str
) -> None:
    head = f"Vendor: {vendor}" + (f"\nDistribution: {distribution}" if distribution else "")
    assert read_rpm(rpms.build(tmp_path, "card", "1", release, head=head)).for_os == system


@pytest.mark.tools
def test_a_damaged_or_renamed_rpm_is_refused(tmp_path: Path, depot: LocalDepot) -> None:
    package = rpms.build(tmp_path, "alpha", files={"/usr/lib/firmware/a.bin": b"x" * 3000})
    whole = package.read_bytes()
    other = tmp_path / "beta-1-1.noarch.rpm"
    for data, says in ((whole, "it is ‘alpha’"), (b"x" + whole, "is not an rpm"), (whole[:200], "header"),
                       (whole[:-60], "archive")):  # fmt: skip
        other.write_bytes(data)
        with pytest.raises(RegraftError, match=says):
            add_component(depot, other)
    assert not known(depot)


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.adapts("D2", "T1")
def test_a_directory_of_firmware(tmp_path: Path, depot: LocalDepot) -> None:
    top = lay(tmp_path / "rtl-nic-2024.1", {"lib/firmware/rtl_nic/a b.fw": b"fw", "LICENCE": b"free"})
    (top / "lib/firmware/rtl_nic/link.fw").symlink_to("a b.fw")
    added = add_component(depot, top)
    one = added.component
    assert (one.id, one.version, one.kind, one.architecture) == ("rtl-nic", "2024.1", "firmware", "all")
    assert one.firmware == ("rtl_nic/a b.fw", "rtl_nic/link.fw")
    assert added.left_out == ("LICENCE",)
    assert payload(depot, one) == {"lib/firmware/rtl_nic/a b.fw": b"fw", "lib/firmware/rtl_nic/link.fw": b"a b.fw"}
    again = add_component(depot, top).component
    assert again == one, "the same files are the same component"


def test_an_archive_of_firmware_whose_places_are_told(tmp_path: Path, depot: LocalDepot) -> None:
    path = archive(tmp_path / "blobs-3.tar.gz", ("blobs-3/intel/x.ucode", b"1", tarfile.REGTYPE))
    with pytest.raises(RegraftError, match=r"neither modules .* nor firmware.*--as firmware"):
        add_component(depot, path)
    assert add_component(depot, path, Said(kind="firmware")).component.firmware == ("intel/x.ucode",)


@pytest.mark.adapts("D1", "T1")
def test_a_driver_that_was_built_for_a_kernel(tmp_path: Path, depot: LocalDepot) -> None:
    path = archive(tmp_path / "mega-7.tgz", ("dkms_main_tree/5.14/x86_64/module/mega.ko", MODULE, tarfile.REGTYPE),
                   ("dkms.conf", b"", tarfile.REGTYPE))  # fmt: skip
    added = add_component(depot, path, Said(id="mega-raid", version="7.1"))
    one = added.component
    assert (one.id, one.version, one.kind, one.kernel_release) == ("mega-raid", "7.1", "driver", RELEASE)
    assert one.modaliases == ("pci:v00001000d0000005D* mega",) and one.architecture == "x86_64"
    assert list(payload(depot, one)) == [f"lib/modules/{RELEASE}/updates/mega.ko"]


def test_the_source_of_a_driver_is_refused_and_says_what_to_do(tmp_path: Path, depot: LocalDepot) -> None:
    top = lay(tmp_path / "driver-1", {"dkms.conf": b"", "driver.c": b"", "Makefile": b""})
    with pytest.raises(RegraftError, match=r"source of a driver.*dkms build"):
        add_component(depot, top)


@pytest.mark.parametrize(
    ("member", "says"),
    [
        (("../../etc/passwd", b"x", tarfile.REGTYPE), "leads out of the root"),
        (("/etc/passwd", b"x", tarfile.REGTYPE), "absolute path"),
        (("lib/firmware/a", "/etc/shadow", tarfile.SYMTYPE), "absolute link"),
        (("lib/firmware/a", "../../../../etc/shadow", tarfile.SYMTYPE), "leads out of the root"),
        (("lib/firmware/a", "lib/firmware/b", tarfile.LNKTYPE), "hard link"),
        (("lib/firmware/sda", b"", tarfile.BLKTYPE), "device node"),
        (("lib/firmware/pipe", b"", tarfile.FIFOTYPE), "device node"),
        (("lib/firmware/$(reboot).fw", b"x", tarfile.REGTYPE), "shell characters"),
        (("lib/firmware/a;b", b"x", tarfile.REGTYPE), "shell characters"),
        (("lib/firmware/a\nb", b"x", tarfile.REGTYPE), "control characters"),
        (("x.ko", b"no elf", tarfile.REGTYPE), "x.ko is not an ELF file"),
        (("x.ko", elf(b"license=GPL\0"), tarfile.REGTYPE), "which kernel it was built for"),
        (("x.ko", elf(b"vermagic=../../etc x\0"), tarfile.REGTYPE), "no release"),
    ],
)  # fmt: skip
def test_hostile_files_are_refused_with_the_place(
    tmp_path: Path, depot: LocalDepot, member: tuple[str, Any, bytes], says: str
) -> None:
    path = archive(tmp_path / "evil-1.tar.gz", ("lib/firmware/good.fw", b"x", tarfile.REGTYPE), member)
    with pytest.raises(RegraftError, match=says) as caught:
        add_component(depot, path)
    assert "evil-1.tar.gz" in str(caught.value) or "x.ko" in str(caught.value)
    assert not known(depot) and not list((depot.root / "components").rglob("*.zst"))


def test_a_directory_with_a_link_out_or_a_device_is_refused(tmp_path: Path, depot: LocalDepot) -> None:
    top = lay(tmp_path / "evil-2", {"lib/firmware/x.fw": b"x"})
    (top / "lib/firmware/out").symlink_to("/etc")
    with pytest.raises(RegraftError, match="absolute link"):
        add_component(depot, top)


def test_modules_for_two_kernels_contradict(tmp_path: Path, depot: LocalDepot) -> None:
    top = lay(tmp_path / "both-1", {"a.ko": MODULE, "b.ko": elf(b"vermagic=6.1.0-9-amd64 SMP\0")})
    with pytest.raises(RegraftError, match=r"is for kernel 6.1.0-9-amd64, other files"):
        add_component(depot, top)


# --- .deb -------------------------------------------------------------------------------------------------------------


def test_a_deb_that_claims_another_name_is_refused(tmp_path: Path, depot: LocalDepot) -> None:
    with pytest.raises(RegraftError, match=r"control file that it is ‘linux-image-6.1.0-9-amd64’"):
        add_component(depot, deb(tmp_path / "firmware-x_1_all.deb", CONTROL, {}))
    with pytest.raises(RegraftError, match="leads out of the root"):
        add_component(depot, deb(tmp_path / "k.deb", CONTROL, {"../../etc/cron.d/x": b"x"}))
    with pytest.raises(RegraftError, match="shell characters"):
        add_component(depot, deb(tmp_path / "k.deb", CONTROL, {"lib/firmware/`x`": b"x"}))


def test_one_version_has_one_content(tmp_path: Path, depot: LocalDepot) -> None:
    head = "Package: tool\nVersion: 1\nArchitecture: all\nDepends: libc6\n"
    add_component(depot, deb(tmp_path / "a.deb", head, {"usr/bin/a": b"a"}))
    add_component(depot, deb(tmp_path / "a.deb", head, {"usr/bin/a": b"a"}), Said(models=(("A", "B"),)))
    assert known(depot)["tool"].models == (("A", "B"),), "what is said of it may change"
    with pytest.raises(RegraftError, match="already, with other content"):
        add_component(depot, deb(tmp_path / "b.deb", head, {"usr/bin/a": b"b"}))


# --- commands ---------------------------------------------------------------------------------------------------------


def test_the_commands(tmp_path: Path, depot: LocalDepot) -> None:
    top = lay(tmp_path / "fw-1", {"lib/firmware/a.fw": b"x"})

    def said(*words: str) -> str:
        result = CliRunner().invoke(cli, ["component", *words, "--depot", str(depot.root)], catch_exceptions=False)
        return result.output

    assert "fw 1: firmware" in said("add", str(top), "--model", "Dell*:OptiPlex 7*")
    said("add", str(top), "--version", "2")
    assert "Dell*:OptiPlex 7*" in said("list")
    assert "a.fw" in said("show", "fw=1") and "machines     Dell*:OptiPlex 7*" in said("show", "fw=1")
    with pytest.raises(RegraftError, match="several versions of fw: 1, 2"):
        said("show", "fw")
    assert "Nothing was removed" in said("remove", "fw=1") and len(list_components(depot, trusted_keys(depot, ()))) == 2
    assert "1 removed" in said("remove", "fw=1", "--delete")
    assert known(depot)["fw"].version == "2" and not (depot.root / "components/fw/1").exists()
    with pytest.raises(RegraftError, match="no component ‘fw=1’"):
        said("remove", "fw=1", "--delete")
