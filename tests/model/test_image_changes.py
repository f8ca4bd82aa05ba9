"""What changed between two profiles, in sections."""

from __future__ import annotations

from dataclasses import replace

from agent.model.image_changes import ADDED, CHANGED, REMOVED, SectionChanges, ValueChange, profile_changes
from agent.model.profile import (
    Address,
    Kernel,
    Network,
    NetworkConfig,
    Nic,
    OperatingSystem,
    Package,
    Profile,
    Section,
    Status,
    Unit,
)

COLLECTED = tuple(Section(name, Status.COMPLETE) for name in ("os", "software", "services", "network"))
KERNEL = Kernel("6.1.0-40-amd64", "amd64", "linux-image-6.1.0-40-amd64", "/boot/vmlinuz", "/boot/initrd", True)
OLD = Profile(
    "web-1", "2026-11-23T20:41:40Z", sections=COLLECTED, hostname="web-1",
    os=OperatingSystem(name="Debian 12.1", loader="grub2", cmdline="quiet", kernels=(KERNEL,)),
    packages=(Package("bash", "amd64", "5.2"), Package("gone", "all", "1"), Package("libc6", "amd64", "2.36"),
              Package("libc6", "i386", "2.36"), Package("kernel", "x86_64", "6.2"), Package("kernel", "x86_64", "6.1")),
    units=(Unit("ssh.service", "enabled"), Unit("cron.service", "enabled")),
    network=Network((Nic("52:54:00:00:00:01", "eth0", driver="e1000e", addresses=(Address("10.0.0.2/24"),)),),
                    (NetworkConfig("ifupdown", "/etc/network/interfaces", ("eth0",), (), ("10.0.0.2/24",)),)),
)  # fmt: skip


def changes(new: Profile) -> dict[str, tuple[ValueChange, ...]]:
    return {section.name: section.changes for section in profile_changes(OLD, new) if section.changes}


def test_the_same_is_no_change() -> None:
    sections = profile_changes(OLD, OLD)
    assert [section.name for section in sections] == ["system", "packages", "kernels", "services", "network"]
    assert not any(section.changes or section.not_compared for section in sections)


def test_packages_by_name_and_architecture() -> None:
    packages = (
        Package("bash", "amd64", "5.3"), Package("new", "all", "1"), Package("libc6", "amd64", "2.36"),
        Package("libc6", "i386", "2.37"), Package("kernel", "x86_64", "6.1"), Package("kernel", "x86_64", "6.3"),
    )  # fmt: skip
    found = changes(replace(OLD, packages=packages))
    assert [(change.op, change.name, change.old, change.new) for change in found.pop("packages")] == [
        (CHANGED, "bash amd64", "5.2", "5.3"),
        (REMOVED, "gone all", "1", ""),
        (CHANGED, "kernel x86_64", "6.1, 6.2", "6.1, 6.3"),
        (CHANGED, "libc6 i386", "2.36", "2.37"),
        (ADDED, "new all", "", "1"),
    ]
    assert not found


def test_services_kernels_system_and_network() -> None:
    newer = replace(KERNEL, release="6.1.0-41-amd64", package="linux-image-6.1.0-41-amd64", initrd="")
    nic = replace(OLD.network.nics[0], name="enp1s0", addresses=())
    new = replace(
        OLD, units=(Unit("ssh.service", "disabled"),), hostname="web-2",
        os=replace(OLD.os, name="Debian 12.2", kernels=(replace(KERNEL, default=False), newer)),
        network=Network((nic,), ()),
    )  # fmt: skip
    found = changes(new)
    assert found["services"] == (
        ValueChange("cron.service", "enabled", ""),
        ValueChange("ssh.service", "enabled", "disabled"),
    )
    assert [(change.name, change.op) for change in found["kernels"]] == [
        (KERNEL.release, CHANGED),
        (newer.release, ADDED),
    ]
    assert found["kernels"][1].new == "linux-image-6.1.0-41-amd64, without initramfs, default"
    assert {change.name: change.new for change in found["system"]} == {
        "hostname": "web-2",
        "operating system": "Debian 12.2",
    }
    assert found["network"] == (
        ValueChange("card 52:54:00:00:00:01", "eth0, e1000e, 10.0.0.2/24 (static)", "enp1s0, e1000e"),
        ValueChange("ifupdown /etc/network/interfaces", "eth0, 10.0.0.2/24", ""),
    )


def test_what_was_not_collected_is_not_read_as_removed() -> None:
    without = replace(OLD, packages=(), sections=(Section("software", Status.UNAVAILABLE, "no dpkg"), *COLLECTED[2:]))
    by_name = {section.name: section for section in profile_changes(OLD, without)}
    assert by_name["packages"] == SectionChanges("packages", not_compared="web-1 of 2026-11-23T20:41:40Z: no dpkg")
    assert by_name["kernels"].not_compared.endswith(": not collected")
    assert not by_name["services"].not_compared
