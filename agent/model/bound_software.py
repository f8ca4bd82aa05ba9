"""Software that is of use on some hardware only: what it is known by in an image, and what it needs to be there.

Data. What is done with it where its hardware is gone is said by recipes (one for each key, phase ``remove``). Names of
packages and units are those of Debian, Ubuntu, Fedora, RHEL and SUSE. A need is a question to the situation; its
answer is why the software is of no use on the target, "" while it is, or while nobody can tell.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from agent.model.profile import Profile, Role, Status
from agent.model.situation import Situation
from agent.model.tree import read_text

Need = Callable[[Situation], str]


@dataclass(frozen=True, slots=True)
class Software:
    """``packages``, ``units`` and ``paths`` are globs (of paths: in any part); one found is enough."""

    key: str
    title: str
    need: Need
    packages: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    must: bool = False  # leaving it on may harm the machine


def hypervisor(*names: str) -> Need:
    """Of use on machines of these hypervisors, as systemd-detect-virt names them."""

    def why_not(situation: Situation) -> str:
        return "" if virt(situation.target) in names else f"the machine is {_kind(situation.target)}"

    return why_not


def vendor(*globs: str) -> Need:
    def why_not(situation: Situation) -> str:
        name = situation.target.platform.system_vendor
        return "" if _any(name, globs) else f"the machine is made by {name or 'nobody known'}"

    return why_not


def cloud(*globs: str) -> Need:
    """Agents of a cloud may serve machines outside as well: they go only where the image was made inside."""

    def why_not(situation: Situation) -> str:
        source, target = (profile.platform.system_vendor for profile in (situation.source, situation.target))
        return f"the image left {source}" if _any(source, globs) and not _any(target, globs) else ""

    return why_not


def metal(situation: Situation) -> str:
    """Of use on a physical machine."""
    return "" if virt(situation.target) == "none" else f"the machine is {_kind(situation.target)}"


def processor(name: str) -> Need:
    def why_not(situation: Situation) -> str:
        found = situation.target.platform.cpu_vendor
        return f"the processor is {found}" if found and found != name else ""

    return why_not


def either(*needs: Need) -> Need:
    """Of no use as soon as one of the needs is not met."""

    def why_not(situation: Situation) -> str:
        return next((why for need in needs if (why := need(situation))), "")

    return why_not


def device(what: str, *globs: str, role: Role | None = None) -> Need:
    """Needs a device whose key matches; of no use when the target was looked at and has none."""

    def why_not(situation: Situation) -> str:
        if situation.target.status("devices") is not Status.COMPLETE or _has(situation.target, globs, role):
            return ""
        return f"the machine has no {what}"

    return why_not


def device_left(what: str, *globs: str) -> Need:
    """As ``device``, of things that may also be reached otherwise: the old machine must have had one."""

    def why_not(situation: Situation) -> str:
        return device(what, *globs)(situation) if _has(situation.source, globs, None) else ""

    return why_not


def same_board(situation: Situation) -> str:
    """Bound to the places of chips on one board."""
    source, target = situation.source.platform, situation.target.platform
    before, after = ((p.system_vendor, p.product_name, p.board_name) for p in (source, target))
    return (
        "" if before == after else f"the board is another one, {' '.join(word for word in after if word) or 'unknown'}"
    )


def watchdog_module(situation: Situation) -> str:
    """The driver that /etc/default/watchdog loads; softdog needs no hardware."""
    text = read_text(situation.tree, "/etc/default/watchdog")
    module = next((m for m in ("iTCO_wdt", "hpwdt", "ipmi_watchdog", "sp5100_tco") if f'"{m}"' in text), "")
    needs: dict[str, Need] = {
        "iTCO_wdt": either(metal, processor("GenuineIntel")),
        "sp5100_tco": either(metal, processor("AuthenticAMD")),
        "hpwdt": vendor("HP", "HPE", "Hewlett*"),
        "ipmi_watchdog": metal,
    }
    return needs[module](situation) if module else ""


def virt(profile: Profile) -> str:
    return profile.platform.virtualization or "none"


def _kind(profile: Profile) -> str:
    return "physical" if virt(profile) == "none" else f"a guest of {virt(profile)}"


def _any(name: str, globs: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs)


def _has(profile: Profile, globs: tuple[str, ...], role: Role | None) -> bool:
    return any(_any(one.key.lower(), globs) and role in (None, one.role) for one in profile.devices)


UPS = ("usb:051d:*", "usb:0463:*", "usb:0764:*", "usb:09ae:*", "usb:06da:*", "usb:0665:*")  # APC, Eaton, CyberPower, …

SOFTWARE: tuple[Software, ...] = (
    # --- guest tools ---
    Software("vmware-tools", "VMware's guest tools", hypervisor("vmware"), ("open-vm-tools", "open-vm-tools-*"),
             ("open-vm-tools.service", "vmtoolsd.service", "vgauth.service", "vgauthd.service",
              "run-vmblock*fuse.mount")),
    Software("vmware-tools-tarball", "VMware's own guest tools", hypervisor("vmware"),
             units=("vmware-tools.service", "vmware-tools-thinprint.service"),
             paths=("/usr/bin/vmware-uninstall-tools.pl",)),
    Software("virtualbox-additions", "VirtualBox's guest additions", hypervisor("oracle"),
             ("virtualbox-guest-*",), ("virtualbox-guest-utils.service", "vboxservice.service")),
    Software("virtualbox-additions-installer", "VirtualBox's own guest additions", hypervisor("oracle"),
             units=("vboxadd.service", "vboxadd-service.service", "vboxadd-x11.service"),
             paths=("/opt/VBoxGuestAdditions-*/uninstall.sh",)),
    Software("xen-tools", "guest tools of Xen and Citrix", hypervisor("xen"),
             ("xe-guest-utilities*", "xen-guest-agent"),
             ("xe-linux-distribution.service", "xe-daemon.service", "xen-guest-agent.service")),
    Software("parallels-tools", "Parallels' guest tools", hypervisor("parallels"),
             units=("prltoolsd.service", "prltools.service", "prl-x11.service"),
             paths=("/usr/lib/parallels-tools/version",)),
    Software("qemu-guest-agent", "QEMU's guest agent", hypervisor("kvm", "qemu"), ("qemu-guest-agent",),
             ("qemu-guest-agent.service", "qemu-ga.service")),
    Software("hyperv-daemons", "Hyper-V's guest services", hypervisor("microsoft"),
             ("hyperv-daemons", "hypervkvpd", "hypervvssd", "hypervfcopyd", "hyper-v"),
             ("hv-kvp-daemon.service", "hv-vss-daemon.service", "hv-fcopy-daemon.service", "hv_kvp_daemon.service",
              "hv_vss_daemon.service", "hv_fcopy_daemon.service", "hypervkvpd.service", "hypervvssd.service",
              "hypervfcopyd.service")),
    # --- agents of clouds ---
    Software("azure-agent", "Azure's agent", cloud("Microsoft Corporation"),
             ("walinuxagent", "WALinuxAgent", "python-azure-agent"), ("walinuxagent.service", "waagent.service")),
    Software("google-agent", "Google Compute Engine's agents", cloud("Google"),
             ("google-guest-agent", "google-osconfig-agent", "google-compute-engine", "gce-disk-expand"),
             ("google-*.service", "google-*.timer", "gce-*.service", "gce-*.timer")),
    Software("amazon-agent", "Amazon EC2's agents", cloud("Amazon EC2", "Amazon"),
             ("amazon-ssm-agent", "ec2-hibinit-agent", "ec2-instance-connect"),
             ("amazon-ssm-agent.service", "snap.amazon-ssm-agent.amazon-ssm-agent.service", "hibinit-agent.service",
              "ec2-instance-connect.service")),
    Software("cloud-datasource", "cloud-init's search for its cloud",
             cloud("Amazon EC2", "Amazon", "Google", "Microsoft Corporation", "DigitalOcean", "Hetzner", "OpenStack*",
                   "Alibaba Cloud", "OracleCloud*"),
             ("cloud-init",)),
    # --- drivers and what serves them ---
    Software("nvidia", "NVIDIA's driver", device("display card of NVIDIA", "pci:10de:*:03*"),
             ("nvidia-driver*", "nvidia-headless*", "nvidia-dkms*", "nvidia-kernel-*", "nvidia-open*", "nvidia-gfxG*",
              "xserver-xorg-video-nvidia*", "linux-modules-nvidia-*", "kmod-nvidia*", "akmod-nvidia*",
              "xorg-x11-drv-nvidia*", "nvidia-persistenced"),
             ("nvidia-persistenced.service", "nvidia-fabricmanager.service"), ("/usr/bin/nvidia-uninstall",)),
    Software("microcode-intel", "microcode of Intel's processors", processor("GenuineIntel"),
             ("intel-microcode", "ucode-intel")),
    Software("microcode-amd", "microcode of AMD's processors", processor("AuthenticAMD"),
             ("amd64-microcode", "ucode-amd")),
    # --- sensors, fans, vendors' agents ---
    Software("fancontrol", "control of fans by the paths of one board's sensors", same_board,
             units=("fancontrol.service",), paths=("/etc/fancontrol",), must=True),
    Software("lm-sensors", "sensors that one board has", same_board,
             units=("lm-sensors.service", "lm_sensors.service")),
    Software("dell-openmanage", "Dell's agents", vendor("Dell*"), ("srvadmin-*", "dcism", "dell-system-update"),
             ("dsm_sa_*.service", "dsm_om_*.service", "instsvcdrv.service", "dataeng.service", "dcismeng.service")),
    Software("hpe-agents", "HPE's agents", vendor("HP", "HPE", "Hewlett*"),
             ("hp-ams", "amsd", "hp-health", "hp-snmp-agents", "hpsmh", "hp-smh-templates"),
             ("amsd.service", "smad.service", "ahslog.service", "cpq*.service", "hp-ams.service", "hp-health.service",
              "hp-snmp-agents.service", "hpsmhd.service", "mr_cpqScsi.service")),
    Software("megaraid-manager", "the manager of LSI's RAID controllers", device("controller of LSI", "pci:1000:*"),
             ("megaraid-storage-manager", "MegaRAID_Storage_Manager", "lsisasraid*"),
             ("vivaldiframeworkd.service", "msm_profile.service", "mrmonitor.service", "LSIStorageAuthority.service",
              "LsiSASH.service")),
    Software("ipmi", "services of the board's management controller", metal, units=(
        "ipmi.service", "openipmi.service", "ipmievd.service", "bmc-watchdog.service", "freeipmi-bmc-watchdog.service",
        "ipmidetectd.service")),
    Software("watchdog", "the watchdog of a board that is gone", watchdog_module, units=(
        "watchdog.service", "wd_keepalive.service")),
    # --- other services ---
    Software("thermald", "Intel's thermal control", either(metal, processor("GenuineIntel")),
             units=("thermald.service",)),
    Software("tlp", "power saving of portable machines", metal, units=("tlp.service", "tlp-sleep.service")),
    Software("ups", "the watch over a UPS by USB", device_left("UPS by USB", *UPS), units=(
        "nut-server.service", "nut-monitor.service", "nut-driver.service", "nut-driver-enumerator.*",
        "nut-driver@*.service", "apcupsd.service")),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Wanted:
    """Software that hardware wants: the packages that bring it, the first that the depot has is taken."""

    key: str
    title: str
    virt: tuple[str, ...] = ()
    cpu_vendor: str = ""
    packages: tuple[str, ...] = ()


WANTED: tuple[Wanted, ...] = (
    Wanted("vmware-tools", "VMware's guest tools", ("vmware",), packages=("open-vm-tools",)),
    Wanted("qemu-guest-agent", "QEMU's guest agent", ("kvm", "qemu"), packages=("qemu-guest-agent",)),
    Wanted("hyperv-daemons", "Hyper-V's guest services", ("microsoft",), packages=("hyperv-daemons", "hyper-v")),
    Wanted("virtualbox-additions", "VirtualBox's guest additions", ("oracle",),
           packages=("virtualbox-guest-utils", "virtualbox-guest-additions")),
    Wanted("xen-tools", "guest tools of Xen", ("xen",), packages=("xe-guest-utilities", "xen-guest-agent")),
    Wanted("microcode-intel", "microcode of Intel's processors", ("none",), "GenuineIntel",
           ("intel-microcode", "ucode-intel", "microcode_ctl")),
    Wanted("microcode-amd", "microcode of AMD's processors", ("none",), "AuthenticAMD",
           ("amd64-microcode", "ucode-amd")),
)  # fmt: skip
