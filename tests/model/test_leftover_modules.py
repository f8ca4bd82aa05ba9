"""Modules, bans and words of the kernel command line that were for the old machine's devices."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.model.difference import Op, Tier
from agent.model.profile import Device, Network, Package, Platform, Role
from agent.model.recipe import AddTo, DropFrom
from agent.model.storage import ChainLink
from tests.model.machines_of_tests import DISK, NEW_MAC, THIN, VIRTIO_ALIASES, component, nic, source
from tests.model.moves_of_tests import COM1, DELL, HPE, KVM, device, items_of, moved, operations

# --- modules --------------------------------------------------------------------------------------------------------

OLD_NIC = device("pci:1022:2000:::020000#1", "pcnet32", Role.NIC, "pci:v00001022d00002000sv*bc02sc00i00")


@pytest.mark.adapts("D5", "T1")
def test_lists_and_aliases_of_modules_lose_what_is_gone() -> None:
    files = {
        "/etc/modules": "# it87\npcnet32\nloop\nit87 force=1\n",
        "/etc/modules-load.d/vbox.conf": "vboxguest\n",
        "/etc/modprobe.d/a.conf": "alias eth0 pcnet32\n",
        "/etc/sysconfig/kernel": 'INITRD_MODULES="pcnet32 ext4"\n',
        "/etc/modules-load.d/$(id).conf": "pcnet32\n",
    }
    one = moved(DELL, HPE, files=files, devices=(OLD_NIC,))
    assert [(i.key, i.source) for i in items_of(one, "module-list")] == [
        ("/etc/modules", "pcnet32"), ("/etc/modules", "it87"), ("/etc/modules-load.d/vbox.conf", "vboxguest"),
    ]  # fmt: skip
    assert [i.source for i in items_of(one, "module-alias")] == ["pcnet32"]
    assert [i.source for i in items_of(one, "initrd-modules")] == ["pcnet32"]
    kept = moved(DELL, HPE, files=files, devices=(OLD_NIC,), new_devices=(OLD_NIC,))
    assert "pcnet32" not in {i.source for i in items_of(kept, "module-list")}


@pytest.mark.adapts("D5", "T1")
def test_a_ban_of_a_driver_that_is_needed_must_fall() -> None:
    text = "blacklist virtio_net\nblacklist pcspkr\ninstall ext4 /bin/false\n"
    needed = "alias pci:v00008086d000010D3sv*sd*bc*sc*i* virtio_net\nalias fs-ext4 ext4\n"
    files = {"/etc/modprobe.d/a.conf": text, "/lib/modules/6.1.0-9-cloud-amd64/modules.alias": needed}
    (item,) = items_of(moved(KVM, DELL, files=files), "blacklist")
    assert (item.source, item.tier, item.handled_by) == ("virtio_net", Tier.MUST, ("modules.blacklist",))


GEFORCE = Device("pci:10de:2484:::030000#1", "pci", "0", "pci:v000010DEd00002484sv0sd0bc03sc00i00", role=Role.DISPLAY,
                 driver="nouveau")  # fmt: skip
ALIASES = f"/lib/modules/{THIN}/modules.alias"
NOUVEAU = "alias pci:v000010DEd*sv*sd*bc03sc*i* nouveau\n"
NVIDIA = "alias pci:v000010DEd*sv*sd*bc03sc00i00* nvidia\n"


@pytest.mark.adapts("D5", "T1")
@pytest.mark.parametrize(
    ("packages", "files", "falls"),
    [
        ("", {}, True),
        ("nvidia-driver-550", {}, False),
        ("nvidia-headless-550", {}, False),
        ("nvidia-dkms-550", {}, False),
        ("akmod-nvidia", {}, False),
        ("", {"/usr/bin/nvidia-uninstall": "#!"}, False),
        ("", {ALIASES: NOUVEAU + NVIDIA, f"/lib/modules/{THIN}/modules.dep": "kernel/nvidia.ko:\n"}, False),
    ],
    ids=["none", "driver", "headless", "dkms", "akmod", "installer", "module"],
)
def test_the_ban_of_nouveau_stays_beside_the_makers_driver(packages: str, files: dict[str, str], falls: bool) -> None:
    ban = {"/etc/modprobe.d/blacklist.conf": "blacklist nouveau\n", ALIASES: NOUVEAU}
    one = moved(DELL, HPE, packages=packages, files={**ban, **files}, new_devices=(GEFORCE,))
    assert [item.source for item in items_of(one, "blacklist")] == ["nouveau"] * falls


@pytest.mark.adapts("D5", "T1")
@pytest.mark.parametrize(
    ("bans", "fall"),
    [
        ("blacklist cirrusfb\n", []),
        ("blacklist cirrusfb\nblacklist cirrus\n", ["cirrus"]),
        ("blacklist cirrus\n", ["cirrus"]),  # the other is none that X can use
    ],
)
def test_drivers_of_the_console_alone_stay_banned(bans: str, fall: list[str]) -> None:
    card = device("pci:1013:00b8:::030000#1", "", Role.DISPLAY, "pci:v00001013d000000B8sv0sd0bc03sc00i00")
    aliases = "".join(f"alias pci:v00001013d000000B8sv*sd*bc03sc*i* {name}\n" for name in ("cirrusfb", "cirrus"))
    paths = "kernel/drivers/video/fbdev/cirrusfb.ko:\nkernel/drivers/gpu/drm/tiny/cirrus.ko:\n"
    files = {"/etc/modprobe.d/a.conf": bans, ALIASES: aliases, f"/lib/modules/{THIN}/modules.dep": paths}
    one = moved(DELL, KVM, files=files, new_devices=(card,))
    assert [item.source for item in items_of(one, "blacklist")] == fall


@pytest.mark.adapts("D5", "T1")
@pytest.mark.parametrize(("also", "fall"), [("", []), ("blacklist r8168\n", ["r8169"])])
def test_a_ban_that_chooses_between_two_drivers_stays(also: str, fall: list[str]) -> None:
    """Of a card that takes over an address, too; a package's own ban counts."""
    realtek = "pci:v000010ECd00008168sv*sd*bc02sc00i00"
    aliases = "".join(f"alias {realtek}* {name}\n" for name in ("r8168", "r8169"))
    files = {"/etc/modprobe.d/r8168-dkms.conf": "blacklist r8169\n", "/usr/lib/modprobe.d/x.conf": also,
             ALIASES: VIRTIO_ALIASES + aliases,
             f"/lib/modules/{THIN}/modules.dep": "kernel/r8169.ko:\nupdates/r8168.ko:\nkernel/ext4.ko:\n"}  # fmt: skip
    one = moved(DELL, HPE, files=files)
    card = nic(NEW_MAC, driver="r8169", modalias=realtek)
    one = replace(one, target=replace(one.target, network=Network(nics=(card,))))
    assert [(item.source, item.tier) for item in items_of(one, "blacklist")] == [(name, Tier.MUST) for name in fall]


@pytest.mark.adapts("D6", "T1")
def test_drivers_built_for_devices_that_are_gone_go() -> None:
    built = "/var/lib/dkms/{0}/1.0/6.1.0-9-amd64/x86_64/module/{1}.ko.xz"
    files = {built.format("amd-pcnet", "pcnet32"): "", built.format("v4l2loopback", "v4l2loopback"): ""}
    one = moved(DELL, HPE, files=files, devices=(OLD_NIC,))
    assert [(i.kind, i.key, i.target) for i in items_of(one, "dkms")] == [("dkms", "amd-pcnet", "1.0")]
    assert operations(one, "driver.built")[0].argv[:4] == ("/usr/sbin/dkms", "remove", "-m", "amd-pcnet")
    packaged = moved(DELL, HPE, files=files, devices=(OLD_NIC,), packages="amd-pcnet-dkms kmod-pcnet32")
    assert [i.key for i in items_of(packaged, "driver-package")] == ["amd-pcnet-dkms", "kmod-pcnet32"]
    assert not items_of(moved(DELL, HPE, files=files, devices=(OLD_NIC,), new_devices=(OLD_NIC,)), "dkms")


@pytest.mark.adapts("D6", "T1")
def test_modules_with_keys_of_the_old_firmware_are_named_under_secure_boot() -> None:
    files = {"/lib/modules/6.1.0-9-cloud-amd64/modules.dep": "updates/dkms/zfs.ko:\nkernel/fs/ext4.ko:\n"}
    secure = replace(DELL, secure_boot="on")
    (item,) = items_of(moved(KVM, secure, files=files), "secure-boot")
    assert item.reason.startswith("zfs: ") and "mokutil" in item.reason
    assert not items_of(moved(KVM, DELL, files=files), "secure-boot")


@pytest.mark.adapts("D8", "T1")
@pytest.mark.parametrize(
    ("version", "said"),
    [("1.39+15.7-1", True), ("1.44~1+deb12u1+15.8-1~deb12u1", False), ("15.6-2", True), ("15.8-3", False)],
)
def test_a_shim_that_firmware_has_revoked_is_named(version: str, said: bool) -> None:
    one = moved(KVM, replace(DELL, secure_boot="on"))
    profile = replace(one.source, packages=(*one.source.packages, Package("shim-signed", "amd64", version)))
    newer = component("shim-signed", kind="loader", version="1.47+15.8-1", kernel_release="", depends=())
    found = items_of(replace(one, source=profile, components=(newer,)), "shim")
    assert bool(found) == said
    assert [item.handled_by for item in found] == [("loader.shim",)] * said


# --- command line ---------------------------------------------------------------------------------------------------


@pytest.mark.adapts("B20", "T1")
@pytest.mark.parametrize(
    ("word", "instead"),
    [
        ("console=hvc0", None),
        ("vfio-pci.ids=10de:1cb1,10de:0fb9", ""),
        ("isolcpus=managed_irq,8-15", ""),
        ("nohz_full=1-31", ""),
        ("intel_iommu=on", ""),
        ("crashkernel=4G", ""),
        ("hugepages=4096", ""),
        ("pcnet32.debug=1", ""),
    ],
)
def test_words_for_the_old_machine_leave_the_command_line(word: str, instead: str | None) -> None:
    files = {"/etc/default/grub": f'GRUB_CMDLINE_LINUX="console=ttyS0 {word} quiet"\n'}
    one = moved(DELL, HPE, files=files, devices=(OLD_NIC,), new_devices=(COM1,))
    items = [item for item in items_of(one, "cmdline") if item.source == word]
    assert [item.handled_by for item in items] == [("cmdline.old-hardware",)]
    assert items[0].target == (instead or "")
    assert DropFrom(path="/etc/default/grub", key="GRUB_CMDLINE_LINUX", word=word) in operations(
        one, "cmdline.old-hardware"
    )


@pytest.mark.adapts("B20", "T1")
@pytest.mark.parametrize(
    "word",
    ["console=ttyS0", "console=tty0", "isolcpus=2-7", "crashkernel=1G-4G:192M,4G-64G:256M", "crashkernel=auto", "quiet",
     "amd_iommu=on", "hugepages=512", "nomodeset", "root=UUID=1", "net.ifnames=0", "vfio-pci.ids=1af4:1041"],
)  # fmt: skip
def test_other_words_stay(word: str) -> None:
    files = {"/etc/default/grub": f'GRUB_CMDLINE_LINUX="{word}"\n'}
    card = device("pci:1af4:1041:::020000#1", "vfio_pci", Role.OTHER)
    one = moved(DELL, HPE, files=files, new_devices=(card,))
    assert [item.op for item in items_of(one, "cmdline") if item.op is not Op.MAP] == []


@pytest.mark.adapts("B20", "T1")
def test_the_screen_gets_the_console_that_was_the_only_one_and_is_gone() -> None:
    files = {"/etc/default/grub": 'GRUB_CMDLINE_LINUX="console=hvc0"\n'}
    xen = replace(source().os, cmdline="ro console=hvc0")
    one = moved(Platform(virtualization="xen"), DELL, files=files)
    one = replace(one, source=replace(one.source, os=xen))
    assert AddTo(path="/etc/default/grub", key="GRUB_CMDLINE_LINUX", word="console=tty0") in operations(
        one, "cmdline.old-hardware"
    )
    assert not [i for i in items_of(one, "console") if "hvc0" in i.key], "nobody puts it back"


PASSED = "pci:10de:1b81:1043:8598:030000"


@pytest.mark.adapts("B20", "T1")
@pytest.mark.adapts("D5", "T1")
def test_what_a_card_was_given_to_stays_where_the_card_is() -> None:
    """The medium binds it to a driver of its own; of two equal cards one is enough."""
    words = "vfio-pci.ids=10de:1b81 vfio-pci.disable_vga=1"
    files = {"/etc/default/grub": f'GRUB_CMDLINE_LINUX="{words}"\n', "/etc/modules": "vfio_pci\nuio_pci_generic\n"}
    old = (device(f"{PASSED}#2", "vfio_pci"), device("pci:8086:1572:8086:6:020000#1", "uio_pci_generic"))
    same = (device(f"{PASSED}#1", "nouveau", Role.DISPLAY), device("pci:8086:1572:8086:6:020000#1", "i40e", Role.NIC))
    kept = moved(DELL, DELL, files=files, devices=old, new_devices=same)
    assert not items_of(kept, "cmdline") and not items_of(kept, "module-list")
    gone = moved(DELL, HPE, files=files, devices=old)
    assert [item.source for item in items_of(gone, "cmdline")] == words.split()
    assert [item.source for item in items_of(gone, "module-list")] == ["vfio_pci", "uio_pci_generic"]


@pytest.mark.adapts("B20", "T1")
def test_devices_for_guests_go_by_the_words_that_name_them() -> None:
    """What vfio-pci drove may have stayed behind; another that the word names is here."""
    word = "vfio-pci.ids=10de:1b81,8086:1572"
    here = device("pci:8086:1572:8086:6:020000#1", "i40e", Role.NIC)
    one = moved(DELL, HPE, files={"/etc/default/grub": f'GRUB_CMDLINE_LINUX="{word}"\n'},
                devices=(device(f"{PASSED}#1", "vfio_pci"),), new_devices=(here,))  # fmt: skip
    assert not items_of(one, "cmdline")


@pytest.mark.adapts("D5", "T1")
def test_a_driver_of_a_chain_is_not_gone_while_its_device_is_here() -> None:
    """A controller that the medium has another driver for."""
    raid = "pci:v00001000d0000005Dsv*bc01sc04i00"
    files = {"/etc/modules": "megaraid_own\n"}
    old = replace(DISK, chain=(ChainLink(raid, "megaraid_own"),))
    new = replace(DISK, chain=(ChainLink(raid, "megaraid_sas"),))
    one = moved(DELL, DELL, files=files, disk=new)
    one = replace(one, source=replace(one.source, disks=(old,)), target=replace(one.target, disks=(new,)))
    assert not items_of(one, "module-list")
    other = replace(one, target=replace(one.target, disks=(DISK,)), disk=DISK)
    assert [item.source for item in items_of(other, "module-list")] == ["megaraid_own"]


def test_a_word_that_is_more_than_a_word_is_left_alone() -> None:
    files = {"/etc/default/grub": 'GRUB_CMDLINE_LINUX="pcnet32.x=$(reboot) pcnet32.y=1"\n'}
    one = moved(DELL, HPE, files=files, devices=(OLD_NIC,))
    assert [item.source for item in items_of(one, "cmdline")] == ["pcnet32.y=1"]
