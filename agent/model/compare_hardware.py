"""Platform and devices: firmware, processor, what was taken out and what is new."""

from __future__ import annotations

from collections.abc import Iterator

from agent.model.difference import Item, Op, Tier, Verdict
from agent.model.kernel_choice import KernelChoice, default_kernel, judge, witnesses
from agent.model.profile import Device, Firmware, Role, Status
from agent.model.situation import Situation
from agent.model.storage import ChainLink

# x86-64 micro-architecture level that a distribution's packages are built for, by os-release ID and first number.
REQUIRED_LEVEL = {
    **dict.fromkeys((("rhel", "9"), ("almalinux", "9"), ("rocky", "9"), ("centos", "9"), ("ol", "9")), 2),
    **dict.fromkeys((("rhel", "10"), ("rocky", "10"), ("centos", "10"), ("ol", "10")), 3),
    ("almalinux", "10"): 2,
    ("opensuse-leap", "16"): 2,
    ("sles", "16"): 2,
}
PRESERVED = ("preserved",)


def platform_items(situation: Situation) -> Iterator[Item]:
    source, target = situation.source.platform, situation.target.platform
    if source.architecture != target.architecture:
        yield Item(
            id="", op=Op.BLOCK, kind="platform", key="architecture", tier=Tier.MUST, source=source.architecture,
            target=target.architecture, reason="programs of one architecture do not run on the other",
        )  # fmt: skip
    yield from cpu_items(situation)
    if default_kernel(situation.source):
        yield from loader_items(situation)
    if (source.system_vendor, source.product_name) != (target.system_vendor, target.product_name):
        yield Item(
            id="", op=Op.CHANGE, kind="platform", key="model", tier=Tier.LATER, handled_by=PRESERVED,
            source=f"{source.system_vendor} {source.product_name}".strip(),
            target=f"{target.system_vendor} {target.product_name}".strip(), reason="another machine",
        )  # fmt: skip


def cpu_items(situation: Situation) -> Iterator[Item]:
    source, target = situation.source.platform, situation.target.platform
    os = situation.source.os
    required = REQUIRED_LEVEL.get((os.id, os.version.partition(".")[0]), 1)
    if target.architecture == "x86_64" and target.cpu_level < required:
        yield Item(
            id="", op=Op.BLOCK, kind="cpu", key="level", tier=Tier.MUST, source=f"x86-64-v{required}",
            target=f"x86-64-v{target.cpu_level}",
            reason=f"{os.name or os.id} is built for x86-64-v{required} and newer",
        )  # fmt: skip
    elif target.cpu_level < source.cpu_level:
        yield Item(
            id="", op=Op.CHANGE, kind="cpu", key="level", tier=Tier.SHOULD, source=f"x86-64-v{source.cpu_level}",
            target=f"x86-64-v{target.cpu_level}",
            reason="programs that were built for the old processor may stop with ‘illegal instruction’",
        )  # fmt: skip
    if source.cpu_vendor and target.cpu_vendor and source.cpu_vendor != target.cpu_vendor:
        yield Item(
            id="", op=Op.CHANGE, kind="cpu", key="vendor", tier=Tier.LATER, source=source.cpu_vendor,
            target=target.cpu_vendor, reason="the microcode package of the other vendor is of no use here",
        )  # fmt: skip


def loader_items(situation: Situation) -> Iterator[Item]:
    """The boot loader belongs to the disk and the firmware: it is installed anew on every restore."""
    source, target, os = situation.source.platform, situation.target.platform, situation.source.os
    if target.firmware is Firmware.UNKNOWN:
        yield Item(
            id="", op=Op.BLOCK, kind="firmware", key="mode", tier=Tier.MUST, source=source.firmware, target="unknown",
            reason="the target's profile does not say whether it starts by BIOS or UEFI",
        )  # fmt: skip
        return
    if source.firmware is not target.firmware:
        yield Item(
            id="", op=Op.CHANGE, kind="firmware", key="mode", tier=Tier.MUST, source=source.firmware.value,
            target=target.firmware.value, reason="the other kind of firmware needs other partitions and another loader"
            if source.firmware is not Firmware.UNKNOWN
            else "what the image's machine started by is not known: partitions and loader are made for this one",
        )  # fmt: skip
    if target.firmware_disks == 0 and situation.target.disks:
        yield Item(
            id="", op=Op.CHANGE, kind="firmware", key="disks", tier=Tier.SHOULD, target="none",
            reason="the firmware read no disk when the medium started: it may have no driver for their controller, or "
            "one that its settings turn off, and then starts nothing from them; look into its setup for them",
            evidence=(("platform", "the medium's boot menu was shown 0 disks beside the medium"),),
        )  # fmt: skip
    supported = os.loader in ("grub2", "")
    yield Item(
        id="", op=Op.CHANGE if supported else Op.BLOCK, kind="loader", key=target.firmware.value, tier=Tier.MUST,
        source=os.loader or "none known", target="grub2",
        reason=f"the boot path of {target.firmware.value.upper()} firmware is made on the new disk"
        if supported
        else f"only GRUB can be installed so far, the image boots by {os.loader}",
    )  # fmt: skip


def device_items(situation: Situation, choice: KernelChoice | None) -> Iterator[Item]:
    """What is gone and what is new; what the boot and the cards need is judged elsewhere."""
    source, target = situation.source, situation.target
    if Status.UNAVAILABLE in (source.status("devices"), target.status("devices")):
        return
    before, after = ({device.key for device in profile.devices} for profile in (source, target))
    judged = {one.link.modalias for one in choice.needed} if choice else set()
    for device in source.devices:
        if device.key not in after and source.status("devices") is Status.COMPLETE:
            yield Item(
                id="", op=Op.REMOVE, kind="device", key=device.key, tier=Tier.LATER, source=device.driver,
                reason=f"{device.label or device.modalias} stays behind", handled_by=PRESERVED,
            )  # fmt: skip
    for device in target.devices:
        if device.key not in before and device.modalias not in judged:
            yield _new_device(device, situation, choice)


def _new_device(device: Device, situation: Situation, choice: KernelChoice | None) -> Item:
    link = ChainLink(device.modalias, device.driver)
    name = device.label or device.modalias
    if choice is None:
        verdict, reason = Verdict.NOT_APPLICABLE, f"{name} is new"
    else:
        found = judge(choice.index, link, witnesses(situation))
        verdict, reason = found.verdict, f"{name} is new: {found.reason}"
    driven = verdict in (Verdict.MODULE, Verdict.BUILTIN, Verdict.NOT_APPLICABLE)
    matters = device.role in (Role.STORAGE, Role.NIC, Role.DISPLAY, Role.INPUT)
    return Item(
        id="", op=Op.ADD, kind="device", key=device.key, tier=Tier.SHOULD if matters and not driven else Tier.LATER,
        target=device.driver, verdict=verdict, reason=reason, handled_by=("kernel",) if driven else (),
    )  # fmt: skip
