"""Which kernel the restored machine will boot: the image's own, or one from the depot when that drives too little.

Every device on the way to the disk and every card that takes over configured addresses is judged by the kernel that
boots by default; another kernel is taken only when it drives all of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from agent.model.difference import Verdict
from agent.model.drivers import DeviceVerdict, KernelIndex
from agent.model.image import Component
from agent.model.nic_map import Pair, map_nics
from agent.model.package_version import missing, version_key
from agent.model.profile import ChainLink, Kernel, Nic, Profile, Role
from agent.model.situation import Situation

GREEN = (Verdict.MODULE, Verdict.BUILTIN, Verdict.NOT_APPLICABLE)
_DEB_ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64", "i686": "i386"}


@dataclass(frozen=True, slots=True)
class Needed:
    """A device that must work: ``use`` says for what ("disk nvme0n1", "card 52:54:…")."""

    link: ChainLink
    use: str
    boot: bool  # on the way to the disk, so that the initramfs must hold its driver


@dataclass(frozen=True, slots=True)
class KernelChoice:
    """The decision: ``release`` boots; ``component`` installs it, None when it is the image's own."""

    release: str
    index: KernelIndex
    own: Kernel  # the image's default kernel
    own_index: KernelIndex
    needed: tuple[Needed, ...]
    pairs: tuple[Pair, ...]
    component: Component | None = None
    with_it: tuple[Component, ...] = ()  # packages that keep the chosen kernel up to date
    reason: str = ""
    rejected: tuple[tuple[str, str], ...] = ()  # component id, why not


def choose_kernel(situation: Situation) -> KernelChoice | None:
    """None for an image without a kernel: there is nothing to boot."""
    own = default_kernel(situation.source)
    if own is None:
        return None
    own_index = KernelIndex.from_tree(situation.tree, own.release)
    pairs = map_nics(situation.source, situation.target)
    needed = needed_devices(situation, pairs)
    lacking = not_driven(own_index, needed, witnesses(situation))
    plain = KernelChoice(own.release, own_index, own, own_index, needed, pairs)
    if not lacking:
        return plain
    return _other_of_the_image(situation, plain) or _from_depot(situation, plain)


def default_kernel(source: Profile) -> Kernel | None:
    """The kernel that boots when nobody chooses."""
    kernels = source.os.kernels
    return next((k for k in kernels if k.default), None) or max(
        kernels, key=lambda k: version_key(k.release), default=None
    )


def needed_devices(situation: Situation, pairs: Iterable[Pair]) -> tuple[Needed, ...]:
    """Everything between the root bus and the disk, and the same for each card that takes over an address."""
    disk = situation.disk
    chain = disk.chain or tuple(
        ChainLink(device.modalias, device.driver)
        for device in situation.target.devices
        if device.role is Role.STORAGE  # a profile that does not say how the disk is attached: all must work
    )
    needed = [Needed(link, f"disk {disk.name}", True) for link in chain]
    for pair in pairs:
        if pair.carries and pair.target:
            needed += [Needed(link, f"card {pair.target.mac}", False) for link in nic_chain(situation, pair.target)]
    return tuple(dict.fromkeys(needed))


def nic_chain(situation: Situation, nic: Nic) -> tuple[ChainLink, ...]:
    if nic.chain:
        return nic.chain
    devices = [d for d in situation.target.devices if d.key == nic.device_key or d.address == nic.address]
    return tuple(ChainLink(device.modalias, device.driver or nic.driver) for device in devices[:1])


def witnesses(situation: Situation, *more: KernelIndex) -> tuple[KernelIndex, ...]:
    """Kernels that may know a device which the image's does not: the running one, and those of the depot."""
    live = (situation.live,) if situation.live else ()
    return (*live, *more)


def judge(index: KernelIndex, link: ChainLink, others: Iterable[KernelIndex]) -> DeviceVerdict:
    known = [name for other in others for name in other.match(link.modalias)] if link.modalias else []
    return index.verdict(link, known)


def not_driven(index: KernelIndex, needed: Iterable[Needed], others: Iterable[KernelIndex]) -> list[Needed]:
    others = tuple(others)
    return [one for one in needed if judge(index, one.link, others).verdict not in GREEN]


def _other_of_the_image(situation: Situation, plain: KernelChoice) -> KernelChoice | None:
    """Another kernel that is installed already and drives everything, the newest one."""
    kernels = sorted(situation.source.os.kernels, key=lambda k: version_key(k.release), reverse=True)
    for kernel in kernels:
        if kernel.release == plain.own.release or not kernel.initrd:
            continue
        index = KernelIndex.from_tree(situation.tree, kernel.release)
        if not not_driven(index, plain.needed, witnesses(situation, plain.own_index)):
            reason = f"{kernel.release}, also in the image, drives every device that must work"
            return replace(plain, release=kernel.release, index=index, reason=reason)
    return None


def _from_depot(situation: Situation, plain: KernelChoice) -> KernelChoice:
    """The newest kernel of the depot that drives everything; of equal ones that of the image's own version."""
    good: list[tuple[Component, KernelIndex]] = []
    rejected: list[tuple[str, str]] = []
    newest = {c.id: c for c in sorted(situation.components, key=lambda c: version_key(c.version))}
    for component in newest.values():
        if component.kind != "kernel" or not component.kernel_release:
            continue
        index = KernelIndex.from_component(component)
        why = _unfit(component, situation) or _undriven(index, plain, situation)
        if why:
            rejected.append((component.id, why))
        else:
            good.append((component, index))
    if not good:
        return replace(plain, rejected=tuple(rejected))
    version = next((p.version for p in situation.source.packages if p.name == plain.own.package), "")
    component, index = max(good, key=lambda one: (one[0].version == version, version_key(one[0].version)))
    same = " and is of the same version as the image's own kernel" if component.version == version else ""
    rejected += [(other.id, f"{component.id} was preferred") for other, _ in good if other is not component]
    return replace(
        plain,
        release=component.kernel_release,
        index=index,
        component=component,
        with_it=followers(component, situation),
        reason=f"{component.id} {component.version} drives every device that must work{same}",
        rejected=tuple(rejected),
    )


def unsuited(component: Component, situation: Situation) -> str:
    """Why a component is none for this image's system, whatever else is installed; "" when it is."""
    os = situation.source.os
    if component.package_format != os.package_format:
        return f"it is a {component.package_format} package, the image takes {os.package_format}"
    architecture = situation.source.platform.architecture
    if component.architecture not in (_DEB_ARCHITECTURE.get(architecture, architecture), architecture, "all"):
        return f"it is for {component.architecture}, the image is {architecture}"
    here = f"{os.id} {os.version}".strip()
    if component.for_os and not f"{here} ".startswith(f"{component.for_os} "):
        return f"it is for {component.for_os}, the image is {here}"
    return ""


def _unfit(component: Component, situation: Situation) -> str:
    """Why a component cannot be installed in this image; "" when it can."""
    if why := unsuited(component, situation):
        return why
    if situation.source.packages:
        lacking = missing(component.depends, situation.source.packages)
        if lacking:
            return f"the image lacks {', '.join(lacking)}"
    return ""


def _undriven(index: KernelIndex, plain: KernelChoice, situation: Situation) -> str:
    lacking = not_driven(index, plain.needed, witnesses(situation, plain.own_index))
    return f"it does not drive {', '.join(one.link.modalias for one in lacking)}" if lacking else ""


def followers(kernel: Component, situation: Situation) -> tuple[Component, ...]:
    """Components that hold nothing but "depends on this very kernel": what brings its updates."""
    newest = {c.id: c for c in sorted(situation.components, key=lambda c: version_key(c.version))}
    return tuple(
        component
        for component in newest.values()
        if component.kind == "other"
        and component.package_format == kernel.package_format
        and any(relation.split()[0] == kernel.id for relation in component.depends if relation.split())
        and not _unfit_follower(component, kernel, situation)
    )


def _unfit_follower(component: Component, kernel: Component, situation: Situation) -> bool:
    return bool(missing(component.depends, situation.source.packages, {kernel.id: kernel.version}))
