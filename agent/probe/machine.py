"""A whole profile: of the machine that runs, or of a system's files alone.

hardware, disks, network ──┐
                           ├──► Profile
any tree ──► software ─────┘
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from agent.model.agent_config import without_settings
from agent.model.profile import SECTIONS, Network, Package, Platform, Profile, Section, Status
from agent.model.stack import storeys, with_holds
from agent.model.storage import Disk, FileSystem, Stack
from agent.model.tree import Tree, read_text
from agent.probe.config import read_config_files, read_hostname, read_identity
from agent.probe.disks import Surroundings, survey, with_filesystems
from agent.probe.hardware import read_devices, read_platform
from agent.probe.kernel_files import text_of
from agent.probe.leases import read_leases
from agent.probe.live_tree import LiveTree
from agent.probe.mounts import FstabEntry, disks_below, fstab_entries
from agent.probe.network import read_links, read_nics
from agent.probe.network_config import read_configs
from agent.probe.rpm_packages import read_rpm_packages
from agent.probe.software import DPKG_STATUS, package_format, read_os, read_packages, read_units
from agent.probe.stack import read_stack
from agent.probe.udev import UdevDatabase
from agent.version import TOOL

HARDWARE = ("platform", "devices", "storage", "network")
# Where the firmware, then the loader, then the kernel starts.
BOOT_PLACES = ("/boot/efi", "/efi", "/boot", "/")
ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64", "i386": "i686", "armhf": "armv7l"}


def probe_machine(machine: str) -> Profile:
    """The machine that runs, every section."""
    root = Path("/")
    tree = LiveTree(root)
    hardware = probe_hardware(machine, root)
    software = probe_root(tree, machine, without_settings(text_of(root / "proc/cmdline")))
    entries = fstab_entries(read_text(tree, "/etc/fstab"))
    disks = with_boot_role(with_fstab_options(hardware.disks, entries), boot_disks(root))
    stack = stack_with_fstab_options(hardware.stack, entries)
    return merged(replace(hardware, disks=disks, stack=stack), software)


def probe_hardware(machine: str, root: Path = Path("/")) -> Profile:
    """Platform, devices, disks and cards of the machine that runs."""
    udev = UdevDatabase.open(root)
    inventory = read_devices(root, udev)
    around = Surroundings.of(root)
    disks = survey(around)
    stack = read_stack(disks, around).stack
    links = read_links()
    platform = read_platform(root)
    return Profile(
        machine=machine,
        time=now(),
        tool=TOOL,
        sections=(
            _platform_section(platform, root),
            Section("devices", Status.COMPLETE if inventory.devices else Status.UNAVAILABLE),
            _section("storage", "; ".join(around.unread)),
            _section("network", links.problem),
        ),
        platform=platform,
        devices=inventory.devices,
        disks=disks,
        stack=stack,
        network=Network(nics=read_nics(inventory, links, root)),
    )


def probe_root(tree: Tree, machine: str, cmdline: str = "") -> Profile:
    """A system's files alone: everything but its hardware. ``cmdline``: of the kernel it runs with, if it runs."""
    packages = read_packages(tree)
    configs = read_configs(tree)
    interfaces = frozenset(name for config in configs for name in config.interfaces)
    os_facts = read_os(tree, packages, cmdline)
    units = read_units(tree)
    gone = "only the system's files were looked at"
    return Profile(
        machine=machine,
        time=now(),
        tool=TOOL,
        sections=(
            *(Section(name, Status.UNAVAILABLE, gone) for name in HARDWARE[:3]),
            Section("network", Status.PARTIAL, f"configuration only: {gone}"),
            Section("os", Status.COMPLETE) if os_facts.id else Section("os", Status.UNAVAILABLE, "no os-release file"),
            _software_section(tree),
            Section("services", Status.COMPLETE) if units else Section("services", Status.UNAVAILABLE, "no systemd"),
            Section("hw-config", Status.COMPLETE),
            Section("identity", Status.COMPLETE),
        ),
        platform=Platform(architecture=_architecture(packages)),
        network=Network(configs=configs, leases=read_leases(tree)),
        os=os_facts,
        packages=packages,
        units=units,
        config_files=read_config_files(tree, interfaces),
        hostname=read_hostname(tree),
        identity=read_identity(tree),
    )


def merged(hardware: Profile, software: Profile) -> Profile:
    """One profile of the hardware sections of one and the others of the other."""
    sections = {section.name: section for section in software.sections}
    sections |= {section.name: section for section in hardware.sections}
    return replace(
        software,
        sections=tuple(sections[name] for name in SECTIONS),
        platform=hardware.platform,
        devices=hardware.devices,
        disks=hardware.disks,
        stack=hardware.stack,
        network=replace(software.network, nics=hardware.network.nics),
    )


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# --- disks as the system sees them ----------------------------------------------------------------------------------


def with_fstab_options(disks: Iterable[Disk], entries: Iterable[FstabEntry]) -> tuple[Disk, ...]:
    """Mount options as fstab gives them, for what is mounted and for swap."""
    options = {entry.mountpoint: entry.options for entry in entries}
    swaps = {entry.device.partition("=")[2]: entry.options for entry in entries if entry.kind == "swap"}

    def changed(held: FileSystem) -> FileSystem:
        if held.kind == "swap":
            return replace(held, options=swaps.get(held.uuid, ""))
        return replace(held, options=options.get(held.mountpoint, "")) if held.mountpoint else held

    return with_filesystems(disks, changed)


def stack_with_fstab_options(stack: Stack, entries: Iterable[FstabEntry]) -> Stack:
    """The same for what lies on LVM, md RAID and LUKS."""
    options = {entry.mountpoint: entry.options for entry in entries}
    mounted = {place: held for place, held, _ in storeys(stack) if held is not None and held.mountpoint}
    return with_holds(
        stack, {place: replace(held, options=options.get(held.mountpoint, "")) for place, held in mounted.items()}
    )


def with_boot_role(disks: Iterable[Disk], names: Iterable[str]) -> tuple[Disk, ...]:
    boot = frozenset(names)
    return tuple(replace(disk, role="boot") if disk.name in boot else disk for disk in disks)


def boot_disks(root: Path) -> frozenset[str]:
    """Disks below the first of the places that the firmware and the loader look at."""
    mounts = {mount.mountpoint: mount.device for mount in Surroundings.of(root).mounts}
    device = next((mounts[place] for place in BOOT_PLACES if mounts.get(place)), "")
    return disks_below(root, device)


# --- how much was collected -----------------------------------------------------------------------------------------


def _section(name: str, problem: str) -> Section:
    return Section(name, Status.PARTIAL, problem) if problem else Section(name, Status.COMPLETE)


def _platform_section(platform: Platform, root: Path) -> Section:
    if not (root / "sys/class/dmi/id").is_dir():
        return Section("platform", Status.PARTIAL, "the firmware gives no SMBIOS tables")
    if not platform.system_uuid and os.geteuid() != 0:
        return Section("platform", Status.PARTIAL, "serial numbers are for root only")
    return Section("platform", Status.COMPLETE)


def _software_section(tree: Tree) -> Section:
    kind = package_format(tree)
    if kind == "deb":
        return Section("software", Status.COMPLETE)
    reason = read_rpm_packages(tree)[1] if kind == "rpm" else f"no {DPKG_STATUS}"
    return Section("software", Status.UNAVAILABLE, reason) if reason else Section("software", Status.COMPLETE)


def _architecture(packages: Iterable[Package]) -> str:
    everywhere = ("dpkg", "libc6", "bash", "glibc")
    found = next((package.architecture for package in packages if package.name in everywhere), "amd64")
    return ARCHITECTURES.get(found, found)
