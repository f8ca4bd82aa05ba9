"""Which kernel the restored machine will boot: the image's own, or one from the depot when that drives too little.

Every device on the way to the disk and every card that takes over configured addresses is judged by the kernel that
boots by default. In this order, and each only where it drives all of them:

    the image's default kernel ─► another one of the image ─► drivers of the depot for the default one
                                                           ─► a kernel of the depot, with drivers where it needs them
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from agent.model.component_fit import model_rank, unfit
from agent.model.difference import Verdict
from agent.model.drivers import DeviceVerdict, KernelIndex
from agent.model.image import Component
from agent.model.nic_map import Pair, map_nics
from agent.model.package_version import missing, version_key
from agent.model.profile import Kernel, Nic, Profile, Role
from agent.model.situation import Situation
from agent.model.storage import ChainLink, Disk

GREEN = (Verdict.MODULE, Verdict.BUILTIN, Verdict.NOT_APPLICABLE)


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
    drivers: tuple[Component, ...] = ()  # that are installed for it
    with_it: tuple[Component, ...] = ()  # packages that keep the chosen kernel up to date
    reason: str = ""
    rejected: tuple[tuple[str, str], ...] = ()  # component id, why not


def choose_kernel(situation: Situation) -> KernelChoice | None:
    """None for an image without a kernel: there is nothing to boot."""
    own = default_kernel(situation.source)
    if own is None:
        return None
    own_index = KernelIndex.from_tree(situation.tree, own.release)
    pairs = map_nics(situation.source, situation.target, situation.cards)
    needed = needed_devices(situation, pairs)
    lacking = not_driven(own_index, needed, witnesses(situation))
    plain = KernelChoice(own.release, own_index, own, own_index, needed, pairs)
    if not lacking:
        return plain
    if other := _other_of_the_image(situation, plain):
        return other
    driven = _with_drivers(situation, plain)
    if not not_driven(driven.index, needed, witnesses(situation, own_index)):
        return driven
    return _from_depot(situation, replace(plain, rejected=driven.rejected))


def default_kernel(source: Profile) -> Kernel | None:
    """The kernel that boots when nobody chooses."""
    kernels = source.os.kernels
    return next((k for k in kernels if k.default), None) or max(
        kernels, key=lambda k: version_key(k.release), default=None
    )


def disk_chain(situation: Situation, disk: Disk) -> tuple[ChainLink, ...]:
    """What a disk is attached by; where the profile does not say, every storage controller must work."""
    return disk.chain or tuple(
        ChainLink(device.modalias, device.driver) for device in situation.target.devices if device.role is Role.STORAGE
    )


def needed_devices(situation: Situation, pairs: Iterable[Pair]) -> tuple[Needed, ...]:
    """Everything between the root bus and the disk, and the same for each card that takes over an address."""
    # What is mounted from further disks is waited for at boot.
    disks = (situation.disk, *situation.also)
    needed = [Needed(link, f"disk {disk.name}", True) for disk in disks for link in disk_chain(situation, disk)]
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


def _with_drivers(situation: Situation, plain: KernelChoice) -> KernelChoice:
    """The kernel with those drivers of the depot that were built for it and are of use, sufficient or not.

    One winner for each device: those made for this machine's model first, then by id.
    """
    index, taken, rejected = plain.index, list[Component](), list[tuple[str, str]]()
    others = witnesses(situation, plain.own_index)
    ranked = sorted(newest_of_each(situation), key=lambda one: (-model_rank(one, situation.target), one.id))
    for component in ranked:
        lacking = not_driven(index, plain.needed, others)
        if component.kind != "driver" or component.kernel_release != plain.release or not lacking:
            continue
        why = unfit(component, situation)
        joined = index if why else index.joined(component)
        if not why and len(not_driven(joined, plain.needed, others)) == len(lacking):
            why = "it drives none of what is lacking"
        if why:
            rejected.append((component.id, why))
            continue
        index, taken = joined, [*taken, component]
    names = ", ".join(f"{one.id} {one.version}" for one in taken)
    fitting = " and is made for this model" if any(model_rank(one, situation.target) for one in taken) else ""
    return replace(
        plain, index=index, drivers=tuple(taken), rejected=(*plain.rejected, *rejected),
        reason=f"{names} for {plain.release} drives every device that must work{fitting}",
    )  # fmt: skip


def newest_of_each(situation: Situation) -> tuple[Component, ...]:
    """Of every component id, and every kernel it is for, the newest version."""
    ordered = sorted(situation.components, key=lambda c: version_key(c.version))
    return tuple({(c.id, c.kernel_release): c for c in ordered}.values())


def _from_depot(situation: Situation, plain: KernelChoice) -> KernelChoice:
    """The kernel of the depot that drives everything: for this model, of the image's own version, the newest."""
    good: list[KernelChoice] = []
    rejected: list[tuple[str, str]] = []
    for candidate in newest_of_each(situation):
        if candidate.kind != "kernel" or not candidate.kernel_release:
            continue
        if why := unfit(candidate, situation):
            rejected.append((candidate.id, why))
            continue
        alone = replace(
            plain, release=candidate.kernel_release, index=KernelIndex.from_component(candidate), component=candidate
        )
        lacking = not_driven(alone.index, plain.needed, witnesses(situation, plain.own_index))
        whole = _with_drivers(situation, alone) if lacking else alone
        lacking = not_driven(whole.index, plain.needed, witnesses(situation, plain.own_index))
        if lacking:
            names = ", ".join(one.link.modalias for one in lacking)
            rejected.append((candidate.id, f"it does not drive {names}"))
        else:
            good.append(whole)
    if not good:
        return replace(plain, rejected=(*plain.rejected, *rejected))
    version = next((p.version for p in situation.source.packages if p.name == plain.own.package), "")
    best = max(good, key=lambda one: _rank(one, situation, version))
    assert best.component is not None
    component: Component = best.component
    same = " and is of the same version as the image's own kernel" if component.version == version else ""
    made = " and is made for this model" if model_rank(component, situation.target) else ""
    together = "".join(f" with {one.id}" for one in best.drivers)
    rejected += [(c.id, f"{component.id} was preferred") for c in (one.component for one in good)
                 if c is not None and c is not component]  # fmt: skip
    return replace(
        best,
        with_it=followers(component, situation),
        reason=f"{component.id} {component.version}{together} drives every device that must work{same}{made}",
        rejected=tuple(rejected),
    )


def _rank(choice: KernelChoice, situation: Situation, version: str) -> tuple[int, bool, Any]:
    assert choice.component is not None
    found = choice.component
    return model_rank(found, situation.target), found.version == version, version_key(found.version)


def followers(kernel: Component, situation: Situation) -> tuple[Component, ...]:
    """Components that hold nothing but "depends on this very kernel": what brings its updates."""
    return tuple(
        component
        for component in newest_of_each(situation)
        if component.kind == "other"
        and component.id not in situation.unmet
        and component.package_format == kernel.package_format
        and any(relation.split()[0] == kernel.id for relation in component.depends if relation.split())
        and not _unfit_follower(component, kernel, situation)
    )


def _unfit_follower(component: Component, kernel: Component, situation: Situation) -> bool:
    return bool(missing(component.depends, situation.source.packages, {kernel.id: kernel.version}))
