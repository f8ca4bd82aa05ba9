"""Words of the kernel command line that were meant for the old machine."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from agent.model.bound_software import virt
from agent.model.compare_modules import Drivers
from agent.model.difference import Item, Op, Tier
from agent.model.drivers import fold
from agent.model.profile import Profile, Status
from agent.model.references import all_command_line_words
from agent.model.situation import Situation
from agent.model.tree import SAFE

CPU_LISTS = ("isolcpus", "nohz_full", "rcu_nocbs", "irqaffinity", "kthread_cpus", "systemd.cpu_affinity")
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "": 1}
OF_MAKER = {
    "GenuineIntel": re.compile(r"intel_iommu=.*|intel_pstate=.*|intel_idle\..*|kvm[-_]intel\..*"),
    "AuthenticAMD": re.compile(r"amd_iommu=.*|amd_iommu_\w+=.*|amd_pstate=.*|kvm[-_]amd\..*"),
}
QUIRK = re.compile(
    r"nomodeset|acpi=.*|noapic|nolapic|pci=.*|pcie_aspm=.*|reboot=.*|memmap=.*|mem=.*|video=.*|libata\..*|idle=.*"
)


def cmdline_items(situation: Situation, drivers: Drivers) -> Iterator[Item]:
    """``from`` is the word as it stands; ``to`` what takes its place, if anything does."""
    words = tuple(word for word in all_command_line_words(situation.tree) if SAFE.fullmatch(word))
    for word in words:
        why, instead = judged(word, words, situation, drivers)
        if why:
            yield Item(
                id="", op=Op.CHANGE if instead else Op.REMOVE, kind="cmdline", key=word, tier=Tier.SHOULD, source=word,
                target=instead, reason=f"‘{word}’ on the kernel command line {why}",
            )  # fmt: skip
        elif QUIRK.fullmatch(word) and _moved(situation):
            yield Item(
                id="", op=Op.MAP, kind="cmdline", key=word, tier=Tier.LATER, source=word, target=word,
                handled_by=("preserved",),
                reason=f"‘{word}’ on the kernel command line is kept: see whether this machine needs it",
            )  # fmt: skip


def dropped_words(situation: Situation, drivers: Drivers) -> frozenset[str]:
    return frozenset(item.source for item in cmdline_items(situation, drivers) if item.op is not Op.MAP)


def judged(word: str, words: tuple[str, ...], situation: Situation, drivers: Drivers) -> tuple[str, str]:
    """(why it cannot stay, what takes its place); ("", "") for a word that stays."""
    key, _, value = word.partition("=")
    if fold(key) == "vfio_pci.ids":  # goes by the devices it names alone, not by what vfio-pci drove
        return _passed_through(value, situation.target)
    judges: tuple[Callable[[], tuple[str, str]], ...] = (
        lambda: _console(key, value, words, situation),
        lambda: _cpus(key, value, situation.target),
        lambda: _maker(word, situation.target),
        lambda: _memory(key, value, words, situation.target),
        lambda: _module(key, value, drivers),
    )
    return next((found for judge in judges if (found := judge())[0]), ("", ""))


def _moved(situation: Situation) -> bool:
    source, target = situation.source.platform, situation.target.platform
    return (source.system_vendor, source.product_name) != (target.system_vendor, target.product_name)


def _console(key: str, value: str, words: tuple[str, ...], situation: Situation) -> tuple[str, str]:
    """A console that does not exist takes /dev/console away from the screen; a serial port may be plugged in later."""
    name = value.partition(",")[0]
    target = situation.target
    if key != "console" or not re.fullmatch(r"hvc\d+|xvc\d+|ttyAMA\d+|ttysclp\d+", name):
        return "", ""
    here = {"hvc": virt(target) == "xen" or _has(target, "virtio:d00000003"), "xvc": virt(target) == "xen"}
    kind = name.rstrip("0123456789")
    if here.get(kind, target.platform.architecture in ("aarch64", "s390x")):
        return "", ""
    others = [w for w in words if w.startswith("console=") and w != f"{key}={value}"]
    return f"names a console that this machine does not have ({name})", "" if others else "console=tty0"


def _has(profile: Profile, modalias: str) -> bool:
    return any(device.modalias.startswith(modalias) for device in profile.devices)


def _passed_through(value: str, target: Profile) -> tuple[str, str]:
    if target.status("devices") is not Status.COMPLETE:
        return "", ""
    here = {":".join(device.key.split(":")[1:3]).lower() for device in target.devices if device.bus == "pci"}
    ids = [":".join(one.split(":")[:2]).lower() for one in value.split(",")]
    return ("", "") if here & set(ids) else ("keeps devices for guests, and this machine has none of them", "")


def _cpus(key: str, value: str, target: Profile) -> tuple[str, str]:
    if key not in CPU_LISTS or target.platform.cpu_count < 1:
        return "", ""
    numbers = [int(number) for number in re.findall(r"\d+", re.sub(r"[:/][\d/]+", "", value))]
    if not numbers or max(numbers) < target.platform.cpu_count:
        return "", ""
    return f"names processor {max(numbers)}, this machine has {target.platform.cpu_count}", ""


def _maker(word: str, target: Profile) -> tuple[str, str]:
    maker = next((name for name, pattern in OF_MAKER.items() if pattern.fullmatch(word)), "")
    if not maker or target.platform.cpu_vendor in ("", maker) or target.platform.cpu_vendor not in OF_MAKER:
        return "", ""
    # AMD's unit is on by itself; Intel's has to be asked for.
    instead = "intel_iommu=on" if word == "amd_iommu=on" else ""
    return f"is for processors of {maker}, this one is {target.platform.cpu_vendor}", instead


def _memory(key: str, value: str, words: tuple[str, ...], target: Profile) -> tuple[str, str]:
    memory = target.platform.memory_bytes
    if not memory:
        return "", ""
    if key == "crashkernel" and (size := size_bytes(value.partition("@")[0].partition(",")[0])) > memory // 4:
        return f"reserves {size >> 20} MiB of this machine's {memory >> 20} MiB", ""
    if key == "hugepages" and value.isdigit():
        page = next((size_bytes(w.partition("=")[2]) for w in words if w.startswith("hugepagesz=")), 2 << 20)
        if int(value) * page > memory // 2:
            return f"takes {int(value) * page >> 20} MiB of this machine's {memory >> 20} MiB for huge pages", ""
    return "", ""


def size_bytes(text: str) -> int:
    """``512M`` → bytes; 0 for what is no plain size (auto, ranges)."""
    found = re.fullmatch(r"(\d+)([KMGkmg]?)", text)
    return int(found[1]) * _UNITS[found[2].upper()] if found else 0


def _module(key: str, value: str, drivers: Drivers) -> tuple[str, str]:
    """Parameters of drivers that are gone; a ban on drivers that are needed."""
    module, dot, _ = key.partition(".")
    if dot and fold(module) in drivers.gone:
        return f"sets {module}, which drove a device that stays behind", ""
    if key in ("modprobe.blacklist", "rd.driver.blacklist", "module_blacklist"):
        needed = [name for name in value.split(",") if fold(name) in drivers.here and fold(name) != "nouveau"]
        if needed:
            return f"forbids {needed[0]}, which drives a device of this machine", ""
    return "", ""
