"""An installed system from its files alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.model.profile import SECTIONS, Mention, Package, Status, Unit
from agent.model.profile_xml import dump_profile, load_profile
from agent.model.tree import MemoryTree
from agent.probe.config import mentions, read_config_files, read_identity
from agent.probe.live_tree import LiveTree
from agent.probe.machine import probe_root
from agent.probe.software import flavour_of, read_kernels, read_os, read_packages, read_units

STATUS = """Package: linux-image-6.1.0-56-cloud-amd64
Status: install ok installed
Architecture: amd64
Version: 6.1.192-2
Description: a kernel
 Package: of words
 .
 more

Package: old
Status: deinstall ok config-files
Architecture: amd64
Version: 1

Package: grub-pc
Status: hold ok installed
Architecture: amd64
Version: 2.06-13+deb12u1
"""


def memory(files: dict[str, str]) -> MemoryTree:
    return MemoryTree({path: text.encode() for path, text in files.items()})


def test_installed_packages() -> None:
    assert read_packages(memory({"/var/lib/dpkg/status": STATUS})) == (
        Package("grub-pc", "amd64", "2.06-13+deb12u1"),
        Package("linux-image-6.1.0-56-cloud-amd64", "amd64", "6.1.192-2"),
    )


@pytest.mark.parametrize(
    ("release", "flavour"),
    [
        ("6.1.0-56-cloud-amd64", "cloud-amd64"), ("6.1.0-56-amd64", "amd64"), ("6.1.0-0.deb11.21-amd64", "amd64"),
        ("6.12.48+deb13-amd64", "amd64"), ("6.12.48+deb13-cloud-amd64", "cloud-amd64"), ("6.9.7+bpo-amd64", "amd64"),
        ("5.10.0-35-rt-amd64", "rt-amd64"), ("6.8.0-31-generic", "generic"), ("5.15.0-1050-aws", "aws"),
        ("6.4.0-150600.21-default", "default"), ("5.14.0-427.13.1.el9_4.x86_64", ""), ("6.6.1-arch1-1", ""),
        ("6.1.0", ""), ("6.1.0-rc4-amd64", "amd64"),
    ],
)  # fmt: skip
def test_flavours(release: str, flavour: str) -> None:
    assert flavour_of(release) == flavour


def kernel_files(*releases: str) -> dict[str, str]:
    files: dict[str, str] = {}
    for release in releases:
        files |= {f"/boot/vmlinuz-{release}": "x", f"/boot/initrd.img-{release}": "x"}
        files[f"/usr/lib/modules/{release}/modules.dep"] = ""
    return files


def test_kernels_and_which_one_boots() -> None:
    files = kernel_files("6.1.0-9-amd64", "6.1.0-56-amd64", "6.1.0-56-cloud-amd64")
    files["/usr/lib/modules/5.10.0-1-amd64/modules.dep"] = ""  # modules of a kernel that is gone
    found = read_kernels(memory(files), (Package("linux-image-6.1.0-56-amd64", "amd64", "1"),))
    assert [(kernel.release, kernel.default) for kernel in found] == [
        # GRUB sorts "cloud" before "amd64": the newest first, then the later letter
        ("6.1.0-56-cloud-amd64", True),
        ("6.1.0-56-amd64", False),
        ("6.1.0-9-amd64", False),
    ]
    assert found[1].package == "linux-image-6.1.0-56-amd64" and found[0].package == ""
    assert found[1].initrd == "/boot/initrd.img-6.1.0-56-amd64"


@pytest.mark.parametrize(
    "more",
    [
        {"/etc/default/grub": 'GRUB_DEFAULT="Advanced options>Debian GNU/Linux, with Linux 6.1.0-9-amd64"\n'},
        {"/etc/default/grub": "GRUB_DEFAULT=saved\n",
         "/boot/grub/grubenv": "# GRUB Environment Block\nsaved_entry=gnulinux-6.1.0-9-amd64-advanced-5d6b\n####"},
    ],
)  # fmt: skip
def test_a_kernel_that_somebody_chose(more: dict[str, str]) -> None:
    found = read_kernels(memory(kernel_files("6.1.0-56-amd64", "6.1.0-9-amd64") | more), ())
    assert [kernel.release for kernel in found if kernel.default] == ["6.1.0-9-amd64"]


def test_a_system() -> None:
    files = kernel_files("6.1.0-56-amd64") | {
        "/etc/os-release": 'ID=debian\nVERSION_ID="12"\nVERSION_CODENAME=bookworm\nPRETTY_NAME="Debian GNU/Linux 12"\n',
        "/var/lib/dpkg/status": STATUS,
        "/usr/sbin/update-initramfs": "",
        "/boot/grub/grub.cfg": "",
        "/boot/efi/EFI/Boot/bootx64.efi": "",
        "/etc/default/grub": 'GRUB_CMDLINE_LINUX_DEFAULT="quiet"\nGRUB_CMDLINE_LINUX="console=ttyS0"\n',
    }
    found = read_os(memory(files), read_packages(memory(files)))
    assert (found.id, found.version, found.codename, found.name) == ("debian", "12", "bookworm", "Debian GNU/Linux 12")
    assert (found.package_format, found.loader, found.loader_packages) == ("deb", "grub2", ("grub-pc",))
    assert found.fallback_efi and found.initrd_tool == "initramfs-tools"
    assert set(found.cmdline.split()) == {"quiet", "console=ttyS0"}
    assert read_os(memory(files), (), "from the kernel").cmdline == "from the kernel"


def test_an_empty_tree_is_described_as_such() -> None:
    profile = probe_root(memory({}), "nothing")
    assert profile.os.id == "" and profile.packages == () and profile.os.kernels == ()
    assert [section.name for section in profile.sections] == list(SECTIONS)
    for name in ("platform", "devices", "storage", "os", "software", "services"):
        assert profile.status(name) is Status.UNAVAILABLE
    assert load_profile(dump_profile(profile)) == profile


# --- units ----------------------------------------------------------------------------------------------------------


def test_states_of_units(tmp_path: Path) -> None:
    system, shipped = tmp_path / "etc/systemd/system", tmp_path / "usr/lib/systemd/system"
    (system / "multi-user.target.wants").mkdir(parents=True)
    (system / "getty.target.wants").mkdir()
    shipped.mkdir(parents=True)
    for name, text in {
        "ssh.service": "[Service]\n[Install]\nWantedBy=multi-user.target\nAlias=sshd.service\n",
        "off.service": "[Service]\n[Install]\nWantedBy=multi-user.target\n",
        "static.service": "[Service]\nExecStart=/bin/true\n",
        "empty.service": "",
        "hidden.service": "[Service]\n",
        "getty@.service": "[Service]\n[Install]\nWantedBy=getty.target\n",
        "notes.txt": "",
    }.items():
        (shipped / name).write_text(text)
    os.symlink("/usr/lib/systemd/system/ssh.service", system / "sshd.service")
    os.symlink("/usr/lib/systemd/system/ssh.service", system / "multi-user.target.wants/ssh.service")
    os.symlink("/usr/lib/systemd/system/getty@.service", system / "getty.target.wants/getty@tty1.service")
    os.symlink("/dev/null", system / "hidden.service")
    (tmp_path / "etc/rc2.d").mkdir()
    os.symlink("../init.d/legacy", tmp_path / "etc/rc2.d/S01legacy")
    os.symlink("../init.d/sshd.sh", tmp_path / "etc/rc2.d/S01sshd.sh")
    assert read_units(LiveTree(tmp_path)) == (
        Unit("empty.service", "masked"),
        Unit("getty@.service", "enabled"),
        Unit("getty@tty1.service", "enabled"),
        Unit("hidden.service", "masked"),
        Unit("legacy.service", "generated"),
        Unit("off.service", "disabled"),
        Unit("ssh.service", "enabled"),
        Unit("static.service", "static"),
    )


# --- mentions -------------------------------------------------------------------------------------------------------

UUID = "5d6b0b5a-7a0c-4b39-9d0e-2f0f1f7f1c11"


@pytest.mark.parametrize(
    ("path", "line", "found"),
    [
        ("/etc/fstab", f"UUID={UUID} / ext4 defaults 0 1", [("uuid", UUID)]),
        ("/etc/fstab", "UUID=1A2B-3C4D /boot/efi vfat umask=0077 0 1", [("uuid", "1A2B-3C4D")]),
        ("/etc/fstab", f"PARTUUID={UUID} /a ext4", [("partuuid", UUID)]),
        ("/etc/fstab", "PARTUUID=cafe0123-01 /a ext4", [("partuuid", "cafe0123-01")]),
        ("/etc/fstab", "LABEL=data /srv ext4", [("label", "data")]),
        ("/etc/fstab", "/dev/sda2 none swap sw 0 0", [("device-path", "/dev/sda2")]),
        ("/etc/fstab", "/dev/nvme0n1p2 none swap sw 0 0", [("device-path", "/dev/nvme0n1p2")]),
        ("/etc/fstab", f"/dev/disk/by-uuid/{UUID} / ext4", [("uuid", UUID)]),
        ("/etc/fstab", "/dev/disk/by-id/wwn-0x5-part1 / ext4", [("disk-id", "/dev/disk/by-id/wwn-0x5-part1")]),
        ("/etc/fstab", "# UUID=1A2B-3C4D", []),
        ("/etc/fstab", "tmpfs /tmp tmpfs defaults 0 0", []),
        ("/etc/crypttab", f"sda5_crypt UUID={UUID} none luks", [("uuid", UUID)]),
        ("/etc/default/grub", 'GRUB_CMDLINE_LINUX="console=ttyS0,115200"', [("device-path", "/dev/ttyS0")]),
        ("/etc/network/interfaces", "iface ens3 inet static", [("interface", "ens3")]),
        ("/etc/network/interfaces", "iface enx525400a00001 inet dhcp", [("interface", "enx525400a00001")]),
        ("/etc/network/interfaces", "hwaddress ether 52:54:00:AA:00:01", [("mac", "52:54:00:aa:00:01")]),
        ("/etc/modules", "vmw_pvscsi", [("module", "vmw_pvscsi")]),
        ("/etc/modules-load.d/a.conf", "loop max_loop=8", [("module", "loop")]),
        ("/etc/modprobe.d/a.conf", "options e1000e InterruptThrottleRate=3", [("module", "e1000e")]),
        ("/etc/X11/xorg.conf", '  BusID "PCI:1:0:0"', [("pci", "1:0:0")]),
        ("/etc/modprobe.d/vfio.conf", "options vfio-pci ids=10de:1b06 0000:01:00.0",
         [("module", "vfio-pci"), ("pci", "0000:01:00.0")]),
    ],
)  # fmt: skip
def test_mentions(path: str, line: str, found: list[tuple[str, str]]) -> None:
    assert [(mention.kind, mention.text) for mention in mentions(path, f"\n{line}\n")] == found
    assert all(mention.line == 2 for mention in mentions(path, f"\n{line}\n"))


def test_names_that_only_this_machine_knows() -> None:
    found = list(mentions("/etc/keepalived/keepalived.conf", "interface lan0\ntrack lan0x\n", frozenset({"lan0"})))
    assert found == [Mention("interface", "lan0", 1)]


def test_files_are_found_by_patterns_and_digested() -> None:
    files = {
        "/etc/fstab": f"UUID={UUID} / ext4\n",
        "/etc/modprobe.d/net.conf": "options tg3 x=1\n",
        "/etc/modprobe.d/README": "options no x=1\n",
        "/etc/passwd": "root",
    }
    found = read_config_files(memory(files))
    assert [file.path for file in found] == ["/etc/fstab", "/etc/modprobe.d/net.conf"]
    assert all(len(file.sha256) == 64 for file in found)


def test_identity_is_digests_only() -> None:
    files = {
        "/etc/machine-id": "0123456789abcdef0123456789abcdef\n",
        "/etc/ssh/ssh_host_ed25519_key.pub": "ssh-ed25519 AAAA root@web1\n",
        "/etc/ssh/ssh_host_ed25519_key": "SECRET",
        "/etc/hostname": "web1\n",
    }
    found = read_identity(memory(files))
    assert [item.name for item in found] == ["machine-id", "ssh-host-key:/etc/ssh/ssh_host_ed25519_key.pub"]
    assert all(item.digest.startswith("sha256:") and len(item.digest) == 71 for item in found)
    written = dump_profile(probe_root(memory(files), "web1"))
    assert b"0123456789abcdef0123456789abcdef" not in written and b"SECRET" not in written and b"AAAA" not in written
