"""What was made for the old machine: found in the image, given its reason, and answered by a recipe; and left alone
where it is of use or where nobody can tell."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.model.bound_software import SOFTWARE, WANTED
from agent.model.compare import compare
from agent.model.difference import Op, Tier
from agent.model.plan import MakeArray, PlannedArray
from agent.model.profile import Device, Platform, Role
from agent.model.recipe import MaskUnit, MoveAside, RemovePackage, Replace, RunCommand, Write
from agent.model.storage import ChainLink, Disk, FileSystem
from tests.model.machines_of_tests import DISK, NVME, THIN, VIRTIO_ALIASES, component, kernel_files, situation
from tests.model.moves_of_tests import (
    COM1,
    DELL,
    EC2,
    HPE,
    KVM,
    RECIPES,
    VMWARE,
    adapted,
    device,
    items_of,
    moved,
    operations,
    removed,
)

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
