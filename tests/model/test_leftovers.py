"""What was made for the old machine: found in the image, given its reason, and answered by a recipe; and left alone
where it is of use or where nobody can tell."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from agent.model.bound_software import SOFTWARE, WANTED
from agent.model.compare import compare
from agent.model.difference import Difference, Item, Op, Tier
from agent.model.plan import MakeArray, PlannedArray
from agent.model.profile import Device, Network, Package, Platform, Role, Section, Status, Unit
from agent.model.recipe import (
    AddTo,
    BoundRecipe,
    DropFrom,
    MaskUnit,
    MoveAside,
    RemovePackage,
    Replace,
    RunCommand,
    Write,
)
from agent.model.recipe_match import bind_all
from agent.model.situation import CLONE, Situation
from agent.model.storage import ChainLink, Disk, FileSystem
from agent.restore.recipe_folder import read_recipes
from tests.model.machines_of_tests import (
    DISK,
    NEW_MAC,
    NVME,
    THIN,
    VIRTIO_ALIASES,
    component,
    kernel_files,
    nic,
    situation,
    source,
    target,
)

RECIPES = read_recipes()
SECTIONS = tuple(
    Section(name, Status.COMPLETE) for name in ("devices", "storage", "network", "os", "software", "services")
)
VMWARE = Platform(virtualization="vmware", system_vendor="VMware, Inc.", product_name="VMware7,1")
EC2 = Platform(virtualization="kvm", system_vendor="Amazon EC2", product_name="m5.large")
KVM = Platform(virtualization="kvm", system_vendor="QEMU", product_name="Q35")
DELL = Platform(system_vendor="Dell Inc.", product_name="R640", board_name="A", cpu_vendor="GenuineIntel", cpu_count=32,
                memory_bytes=64 << 30)  # fmt: skip
HPE = Platform(system_vendor="HPE", product_name="DL325", board_name="B", cpu_vendor="AuthenticAMD", cpu_count=8,
               memory_bytes=8 << 30)  # fmt: skip


def device(key: str, driver: str = "", role: Role = Role.OTHER, modalias: str = "") -> Device:
    return Device(key, key.partition(":")[0], "0", modalias or key, role=role, driver=driver)


ACPI = device("acpi::PNP0C0A:::#1")
COM1 = device("acpi::PNP0501:::#1", modalias="acpi:PNP0501:")


def moved(
    old: Platform, new: Platform, *, packages: str = "", units: str = "", files: dict[str, str] | None = None,
    devices: tuple[Device, ...] = (), new_devices: tuple[Device, ...] = (), **more: Any,
) -> Situation:  # fmt: skip
    before = source(
        platform=replace(old, firmware=source().platform.firmware), sections=SECTIONS, devices=devices,
        packages=(*source().packages, *(Package(name, "amd64", "1.0") for name in packages.split())),
        units=tuple(Unit(name, "enabled") for name in units.split()),
    )  # fmt: skip
    after = target(
        platform=replace(new, firmware=target().platform.firmware), sections=SECTIONS, devices=(ACPI, *new_devices)
    )
    return situation(files, source=before, target=after, **more)


def adapted(one: Situation) -> tuple[Difference, tuple[BoundRecipe, ...]]:
    bound, difference = bind_all(RECIPES, compare(one), one)
    return difference, bound


def items_of(one: Situation, kind: str, op: Op | None = None) -> list[Item]:
    found, _ = adapted(one)
    return [item for item in found.items if item.kind == kind and op in (None, item.op)]


def operations(one: Situation, recipe: str) -> list[Any]:
    return [operation for bound in adapted(one)[1] if bound.id == recipe for operation in bound.operations]


def removed(one: Situation) -> dict[str, Item]:
    return {item.key: item for item in items_of(one, "software", Op.REMOVE)}


# --- software -------------------------------------------------------------------------------------------------------

LEFT = [
    ("G1", VMWARE, KVM, "vmware-tools", "open-vm-tools open-vm-tools-desktop",
     "open-vm-tools.service vgauth.service", {}),
    ("G1", VMWARE, DELL, "vmware-tools-tarball", "", "vmware-tools.service",
     {"/usr/bin/vmware-uninstall-tools.pl": "#!"}),
    ("G2", Platform(virtualization="oracle"), KVM, "virtualbox-additions", "virtualbox-guest-utils",
     "vboxservice.service", {}),
    ("G2", Platform(virtualization="oracle"), KVM, "virtualbox-additions-installer", "", "vboxadd.service",
     {"/opt/VBoxGuestAdditions-7.0.14/uninstall.sh": "#!"}),
    ("G3", Platform(virtualization="xen"), KVM, "xen-tools", "xe-guest-utilities", "xe-daemon.service", {}),
    ("G3", Platform(virtualization="parallels"), KVM, "parallels-tools", "", "prltoolsd.service", {}),
    ("G4", KVM, DELL, "qemu-guest-agent", "qemu-guest-agent", "qemu-guest-agent.service", {}),
    ("G4", Platform(virtualization="microsoft"), DELL, "hyperv-daemons", "hyperv-daemons", "hv-kvp-daemon.service", {}),
    ("G6", EC2, KVM, "amazon-agent", "amazon-ssm-agent", "amazon-ssm-agent.service", {}),
    ("G6", EC2, DELL, "cloud-datasource", "cloud-init", "", {}),
    ("G6", Platform(virtualization="microsoft", system_vendor="Microsoft Corporation"), KVM, "azure-agent",
     "walinuxagent", "walinuxagent.service", {}),
    ("G6", Platform(virtualization="kvm", system_vendor="Google"), DELL, "google-agent", "google-guest-agent",
     "google-guest-agent.service", {}),
    ("V2", DELL, HPE, "fancontrol", "", "fancontrol.service", {"/etc/fancontrol": "INTERVAL=10\n"}),
    ("V2", DELL, HPE, "lm-sensors", "", "lm_sensors.service", {}),
    ("V3", DELL, HPE, "dell-openmanage", "srvadmin-base", "dsm_sa_datamgrd.service", {}),
    ("V3", HPE, DELL, "hpe-agents", "amsd", "amsd.service", {}),
    ("V3", DELL, KVM, "ipmi", "", "openipmi.service", {}),
    ("V3", HPE, KVM, "watchdog", "", "watchdog.service", {"/etc/default/watchdog": 'watchdog_module="hpwdt"\n'}),
    ("V3", DELL, HPE, "megaraid-manager", "megaraid-storage-manager", "vivaldiframeworkd.service", {}),
    ("V5", DELL, HPE, "thermald", "", "thermald.service", {}),
    ("V5", DELL, KVM, "tlp", "", "tlp.service", {}),
    ("D7", DELL, HPE, "microcode-intel", "intel-microcode", "", {}),
    ("X2", DELL, HPE, "nvidia", "nvidia-driver nvidia-dkms-550", "nvidia-persistenced.service", {}),
]  # fmt: skip


@pytest.mark.adapts("G1", "T1")
@pytest.mark.adapts("G2", "T1")
@pytest.mark.adapts("G3", "T1")
@pytest.mark.adapts("G4", "T1")
@pytest.mark.adapts("G6", "T1")
@pytest.mark.adapts("V2", "T1")
@pytest.mark.adapts("V3", "T1")
@pytest.mark.adapts("V5", "T1")
@pytest.mark.adapts("X2", "T1")
@pytest.mark.parametrize(("row", "old", "new", "key", "packages", "units", "files"), LEFT, ids=[one[3] for one in LEFT])
def test_software_whose_hardware_is_gone_is_stopped_first_and_then_removed(
    row: str, old: Platform, new: Platform, key: str, packages: str, units: str, files: dict[str, str]
) -> None:
    one = moved(old, new, packages=packages, units=units, files=files)
    difference, bound = adapted(one)
    item = next(item for item in difference.items if (item.kind, item.key) == ("software", key))
    assert item.reason and item.evidence
    handlers = [recipe for recipe in bound if recipe.id in item.handled_by]
    assert handlers and all(recipe.phase == "remove" for recipe in handlers)
    assert {row} <= {name for recipe in RECIPES if recipe.id in item.handled_by for name in recipe.rows}
    done = [operation for recipe in handlers for operation in recipe.operations]
    assert {op.unit for op in done if isinstance(op, MaskUnit)} == set(units.split())
    masks = [n for n, op in enumerate(done) if isinstance(op, MaskUnit)]
    for number, op in enumerate(done):
        if isinstance(op, RemovePackage | RunCommand):
            assert op.on_failure == "warn", "a restore never fails for it"
            assert number > max(masks, default=-1), "stopped before anything that may fail"


@pytest.mark.parametrize(("row", "old", "new", "key", "packages", "units", "files"), LEFT, ids=[one[3] for one in LEFT])
def test_software_stays_where_it_was_made_for(
    row: str, old: Platform, new: Platform, key: str, packages: str, units: str, files: dict[str, str]
) -> None:
    hardware = (
        device("pci:10de:1cb1:1028:11bc:030000#1", "nvidia", Role.DISPLAY),
        device("pci:1000:005d:1:1:010400#1"),
    )
    one = moved(old, old, packages=packages, units=units, files=files, devices=hardware, new_devices=hardware)
    assert key not in removed(one), f"{row}: {removed(one)[key].reason}"


def test_every_piece_of_software_has_a_recipe_that_knows_its_units() -> None:
    for software in SOFTWARE:
        text = [
            r
            for r in RECIPES
            for c in (*r.all, *r.any)
            if c.fields.get("key") == software.key and c.fields["op"] == "remove"
        ]
        assert text, f"no recipe for {software.key}"
    for wanted in WANTED:
        assert any(c.fields.get("kind") == "software" and c.fields["op"] == "add" for r in RECIPES for c in r.any), (
            wanted
        )


def test_where_nobody_looked_nothing_counts_as_gone() -> None:
    one = moved(DELL, HPE, packages="nvidia-driver megaraid-storage-manager")
    unknown = replace(one.target, sections=())
    assert not {"nvidia", "megaraid-manager"} & removed(replace(one, target=unknown)).keys()


def test_a_ups_that_came_along_is_watched() -> None:
    ups = device("usb:051d:0002:::00#1")
    gone = moved(DELL, HPE, units="nut-server.service", devices=(ups,))
    assert "ups" in removed(gone)
    assert "ups" not in removed(moved(DELL, HPE, units="nut-server.service", devices=(ups,), new_devices=(ups,)))
    assert "ups" not in removed(moved(DELL, HPE, units="nut-server.service")), "one in the network is none of ours"


@pytest.mark.adapts("G5", "T1")
def test_guest_tools_are_taken_from_the_depot_where_the_new_hypervisor_wants_them() -> None:
    tools = component("open-vm-tools", kind="guest-tools", version="12.2", kernel_release="", depends=())
    one = moved(KVM, VMWARE, packages="qemu-guest-agent", components=(tools,))
    (item,) = items_of(one, "software", Op.ADD)
    assert (item.key, item.target, item.handled_by) == ("vmware-tools", "open-vm-tools", ("guest.tools-wanted",))
    without = moved(KVM, VMWARE)
    (item,) = items_of(without, "software", Op.ADD)
    assert item.tier is Tier.LATER and "no component of the depot" in item.reason
    assert not items_of(moved(KVM, VMWARE, packages="open-vm-tools"), "software", Op.ADD)
    unfit = component("open-vm-tools", kind="guest-tools", depends=("libmspack0",), kernel_release="")
    (item,) = items_of(moved(KVM, VMWARE, components=(unfit,)), "software", Op.ADD)
    assert item.target == "", "a package that cannot be configured here is not taken"


@pytest.mark.adapts("D7", "T1")
def test_microcode_and_options_follow_the_maker_of_the_processor() -> None:
    amd = component("amd64-microcode", kind="microcode", kernel_release="", depends=())
    files = {"/etc/modprobe.d/kvm.conf": "options kvm-intel nested=1\noptions kvm ignore_msrs=1\n"}
    one = moved(DELL, HPE, packages="intel-microcode", components=(amd,), files=files)
    assert removed(one)["microcode-intel"].handled_by == ("cpu.microcode-other-vendor",)
    assert [i.target for i in items_of(one, "software", Op.ADD)] == ["amd64-microcode"]
    assert operations(one, "modules.kvm-options")[0].text == "options kvm_amd"
    assert not items_of(moved(DELL, DELL, files=files), "module-options")


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


# --- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.adapts("X1", "T1")
def test_x_drives_any_card() -> None:
    text = 'Section "Device"\n Driver "nvidia"\n BusID "PCI:1:0:0"\nEndSection\n'
    old, new = (device(f"pci:{v}:1:::030000#1", "x", Role.DISPLAY) for v in ("10de", "1002"))
    files = {"/etc/X11/xorg.conf": text, "/etc/X11/xorg.conf.d/10-kbd.conf": ' Driver "libinput"\n'}
    one = moved(DELL, HPE, files=files, devices=(old,), new_devices=(new,))
    assert [(i.kind, i.key, i.source) for i in adapted(one)[0].items if i.kind.startswith("x-")] == [
        ("x-driver", "/etc/X11/xorg.conf", "nvidia"), ("x-place", "/etc/X11/xorg.conf", "BusID"),
    ]  # fmt: skip
    assert not items_of(moved(DELL, DELL, files=files, devices=(old,), new_devices=(old,)), "x-driver")


@pytest.mark.adapts("V1", "T1")
@pytest.mark.adapts("B8", "T1")
@pytest.mark.adapts("B22", "T1")
def test_settings_that_name_the_old_disks() -> None:
    files = {
        "/etc/smartd.conf": "/dev/sda -a\n",
        "/etc/hdparm.conf": "# x\n/dev/sda {\n}\n",
        "/etc/multipath/wwids": "# Multipath wwids\n/3600508b400105e210000900000490000/\n",
        "/etc/multipath/bindings": "# only a comment\n",
        "/etc/lvm/lvm.conf": '\tglobal_filter = [ "a|/dev/sda3|", "r|.*|" ]\n\t# filter = [ "a|/dev/sdb|" ]\n',
        "/etc/blkid.tab": "<device/>",
    }
    one = moved(DELL, HPE, files=files)
    difference, bound = adapted(one)
    kinds = ("smartd", "hdparm", "multipath", "lvm-filter")
    assert [(i.kind, i.key, bool(i.handled_by)) for i in difference.items if i.kind in kinds] == [
        ("smartd", "/etc/smartd.conf", True), ("hdparm", "/etc/hdparm.conf", True),
        ("multipath", "/etc/multipath/wwids", True), ("lvm-filter", "/etc/lvm/lvm.conf", True),
    ]  # fmt: skip
    assert MoveAside(path="/etc/blkid.tab*") in operations(one, "storage.caches")
    scan = moved(DELL, HPE, files={"/etc/smartd.conf": "DEVICESCAN -a\n"})
    assert not [i for i in adapted(scan)[0].items if i.kind in kinds]
    assert "storage.caches" not in {recipe.id for recipe in adapted(scan)[1]}
    assert "storage.caches" in {recipe.id for recipe in bound}


@pytest.mark.adapts("B8", "T1")
@pytest.mark.parametrize(
    ("line", "hides"),
    [
        ('filter = [ "a|^/dev/sda3$|",\n "r|.*|" ]', True),
        ("filter=['a|/dev/mapper/crypt|','r|.*/|']  # ours", True),
        ('filter = [\n# "a|.*|" and ]\n"a/\\\\/dev\\\\/vda/", "r/.*/"\n]', True),
        ('filter=["r|/dev/zd.*|","r|/dev/rbd.*|"]', False),  # Proxmox
        ('filter = [ "a|/dev/sd.*|", "r|/dev/cdrom|" ]', False),
        ('filter = [ # "a|/dev/sda|",\n "r|/dev/nbd.*|" ]', False),
        ('filter = [ "a|.*|" ]', False),
        ('filter = [ "a|/dev/sda|",', False),
    ],
)
def test_a_filter_of_lvm_falls_where_it_hides_all_but_the_old_disks(line: str, hides: bool) -> None:
    one = moved(DELL, HPE, files={"/etc/lvm/lvm.conf": f"devices {{\n\tglobal_{line}\n}}\n"})
    assert [(item.source, item.handled_by) for item in items_of(one, "lvm-filter")] == [
        ("global_filter", ("storage.lvm-filter",))
    ] * hides


@pytest.mark.parametrize(
    "text", ["filter = [ " + '"a|/dev/sda|", # "\n' * 20_000, "filter = [ #\n" * 50_000], ids=("closed", "open")
)
def test_a_filter_without_end_is_read_in_time(text: str) -> None:
    assert not items_of(moved(DELL, HPE, files={"/etc/lvm/lvm.conf": text}), "lvm-filter")


@pytest.mark.adapts("B9", "T1")
def test_mdadm_names_only_arrays_that_are_there() -> None:
    """One is made here, one lies on a disk that stays as it is, one became a plain partition."""
    made, beside, gone = (f"{letter}3ba06fe:5cfe7bf4:e2581feb:df9a4a6a" for letter in "abc")
    lines = [f"ARRAY /dev/md/{number} metadata=1.2 UUID={uuid}" for number, uuid in enumerate((made, beside, gone))]
    one = moved(DELL, HPE, files={"/etc/mdadm/mdadm.conf": "HOMEHOST <system>\n" + "\n".join(lines) + "\n"})
    held = FileSystem("linux_raid_member", "b3ba06fe-5cfe-7bf4-e258-1febdf9a4a6a")
    other = Disk("sdz", 1 << 30, 512, 512, serial="Z", holds=held)
    step = MakeArray(place=1001, on=(2,), array=PlannedArray(uuid=made, level="raid1", node="md0"))
    one = replace(one, stack=(step,), target=replace(one.target, disks=(*one.target.disks, other)))
    assert [
        (item.key, item.source, bool(item.handled_by)) for item in adapted(one)[0].items if item.kind == "array"
    ] == [("/etc/mdadm/mdadm.conf", gone, True)]


@pytest.mark.adapts("V4", "T1")
@pytest.mark.parametrize(
    ("old", "new", "profile", "better"),
    [(KVM, DELL, "virtual-guest", "throughput-performance"), (DELL, KVM, "balanced", "virtual-guest"),
     (KVM, DELL, "postgresql", ""), (KVM, VMWARE, "virtual-guest", "")],
)  # fmt: skip
def test_tuned_knows_guests_from_machines(old: Platform, new: Platform, profile: str, better: str) -> None:
    one = moved(old, new, files={"/etc/tuned/active_profile": f"{profile}\n"})
    assert [item.target for item in items_of(one, "tuned")] == [better] * bool(better)
    if better:
        assert Write(path="/etc/tuned/active_profile", lines=(better,), whole=True) in operations(one, "service.tuned")


@pytest.mark.adapts("V5", "T1")
def test_ports_and_clocks_that_are_gone_are_not_waited_for() -> None:
    units = "serial-getty@ttyS0.service serial-getty@ttyS1.service serial-getty@hvc0.service"
    files = {"/etc/chrony/chrony.conf": "refclock PHC /dev/ptp_hyperv poll 3\n"}
    azure = Platform(virtualization="microsoft")
    one = moved(azure, DELL, units=units, files=files, new_devices=(COM1,))
    assert [i.source for i in items_of(one, "serial-getty")] == ["ttyS1", "hvc0"]
    assert [i.source for i in items_of(one, "refclock")] == ["/dev/ptp_hyperv"]
    assert not items_of(moved(azure, azure, files=files), "refclock")
    huge = {"/etc/sysctl.d/a.conf": "vm.nr_hugepages=16384\n"}
    assert [i.source for i in items_of(moved(DELL, HPE, files=huge), "huge-pages")] == ["16384"]
    assert not items_of(moved(HPE, DELL, files={"/etc/sysctl.d/a.conf": "vm.nr_hugepages=16\n"}), "huge-pages")


@pytest.mark.adapts("I3", "T1")
def test_the_drift_of_the_old_clock_is_forgotten_and_its_zone_kept() -> None:
    one = moved(DELL, HPE, files={"/etc/adjtime": "-1.28 1699999999 0.0\n1699999999\nLOCAL\n"})
    assert [(i.key, i.handled_by) for i in items_of(one, "clock")] == [
        ("/etc/adjtime", ("clock.drift",)), ("local-time", ("preserved",)),
    ]  # fmt: skip
    assert isinstance(operations(one, "clock.drift")[0], Replace)
    assert not items_of(moved(DELL, HPE, files={"/etc/adjtime": "0.000000 0 0.000000\n0\nUTC\n"}), "clock")


@pytest.mark.adapts("C2", "T1")
def test_guards_are_said_and_stay_on() -> None:
    keyboard = Device("usb:046d:c31c:::03#1", "usb", "1-1", "usb:x", role=Role.INPUT, label="Logitech Keyboard")
    one = moved(DELL, HPE, units="usbguard.service", files={"/var/lib/aide/aide.db": ""}, new_devices=(keyboard,))
    usb, aide = items_of(one, "guard")
    assert "Logitech Keyboard" in usb.reason and usb.handled_by == () and aide.tier is Tier.LATER
    assert not items_of(moved(DELL, HPE, units="usbguard.service"), "guard")


# --- identity -------------------------------------------------------------------------------------------------------

IDENTITY = {
    "/etc/machine-id": "1\n",
    "/etc/ssh/ssh_host_ed25519_key": "secret",
    "/etc/iscsi/initiatorname.iscsi": "InitiatorName=iqn.1\n",
    "/etc/nvme/hostnqn": "nqn.1\n",
    "/etc/pki/consumer/cert.pem": "certificate",
    "/etc/krb5.keytab": "secret",
    "/etc/wireguard/wg0.conf": "secret",
}


@pytest.mark.adapts("I1", "T1")
@pytest.mark.adapts("I2", "T1")
def test_a_clone_renews_what_a_restore_keeps() -> None:
    kinds = ("machine-id", "ssh-host-key", "iscsi-name", "nvme-name", "registration", "hostname")
    clone = moved(DELL, HPE, files=IDENTITY, mode=CLONE)
    found = [item for item in adapted(clone)[0].items if item.kind in kinds]
    assert {item.kind for item in found} == set(kinds) and all(item.handled_by for item in found)
    said = {item.key for item in items_of(clone, "identity")}
    assert {"/etc/krb5.keytab", "/etc/wireguard"} <= said, "what only its owner can renew is said"
    restore = adapted(moved(DELL, HPE, files=IDENTITY))
    assert not [item for item in restore[0].items if item.kind in (*kinds, "identity")]
    assert not [recipe.id for recipe in restore[1] if recipe.phase == "identity"]


HOSTS = "127.0.0.1 localhost localhost.localdomain\n10.0.0.5 {full} {short} # {short}\n10.0.0.6 {short}.elsewhere.net\n"


@pytest.mark.adapts("I2", "T1")
@pytest.mark.parametrize(
    ("old", "given", "new", "names"),
    [
        ("db1.example.com", "", "db1-bb0001.example.com",
         {"db1.example.com": "db1-bb0001.example.com", "db1": "db1-bb0001"}),
        ("db1.example.com", "db2.example.com", "db2.example.com", {"db1.example.com": "db2.example.com", "db1": "db2"}),
        ("db1.example.com", "db1.example.org", "db1.example.org", {"db1.example.com": "db1.example.org"}),
        ("db1.example.com", "db2", "db2", {"db1.example.com": "db2.example.com", "db1": "db2"}),
        ("db1", "", "db1-bb0001", {"db1.example.com": "db1-bb0001.example.com", "db1": "db1-bb0001",
                                   "db1.elsewhere.net": "db1-bb0001.elsewhere.net"}),
        ("localhost.localdomain", "", "localhost-bb0001.localdomain", {}),
    ],
)  # fmt: skip
def test_a_clone_is_called_by_its_own_names(old: str, given: str, new: str, names: dict[str, str]) -> None:
    hosts = HOSTS.format(full="db1.example.com", short="db1")
    one = moved(DELL, HPE, files={"/etc/hosts": hosts}, mode=CLONE, name=given)
    one = replace(one, source=replace(one.source, hostname=old))
    assert [item.target for item in items_of(one, "hostname")] == [new]
    found = items_of(one, "hosts-name")
    assert {item.source: item.target for item in found} == names
    assert all(item.handled_by == ("identity.clone-hostname",) for item in found)


# --- parents of the disk --------------------------------------------------------------------------------------------

VMD = "pci:v00008086d0000467Fsv00001028sd00000A5Abc01sc04i00"


@pytest.mark.adapts("D4", "T1")
def test_the_bridge_before_the_disk_is_needed_too() -> None:
    behind = replace(DISK, chain=(ChainLink(VMD, "vmd"), ChainLink(NVME, "nvme")))
    (without,) = [i for i in compare(situation(disk=behind)).items if i.kind == "device" and i.key == VMD]
    assert without.tier is Tier.MUST and without.handled_by == ()
    files = kernel_files(THIN, VIRTIO_ALIASES + "alias pci:v00008086d0000467Fsv*sd*bc*sc*i* vmd\n", "vmd ext4", "nvme")
    found = compare(situation(files, disk=behind)).items
    assert "vmd" in {item.target for item in found if (item.kind, item.op) == ("driver", Op.ADD)}
