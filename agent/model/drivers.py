"""Which module of a given kernel drives a given device, decided from the kernel's own files.

    /lib/modules/<release>/modules.{alias,dep,softdep,builtin,builtin.modinfo}  ─┐
    /boot/config-<release>                                                        ├─► KernelIndex ─► verdict
    or a Component of the depot                                                  ─┘

``match`` says what ``modprobe -R`` would (a test compares them over every alias of a real kernel), without kmod:
26,000 patterns are filed under the text before their first wildcard, so that a lookup compares a handful.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import translate
from functools import lru_cache

from agent.model.difference import Verdict
from agent.model.image import Component
from agent.model.storage import ChainLink
from agent.model.tree import Tree, read_text

MODULE_DIRECTORIES = ("/lib/modules", "/usr/lib/modules")
_WILDCARD = re.compile(r"[*?\[]")
_SUFFIX = re.compile(r"\.ko(\.(xz|zst|gz))?$")
_FLAVOUR = re.compile(r"\d+(?:\.\d+)*(?:-rc\d+)?(?:[-+~.][\d.]+)*(?:\+?(?:deb|bpo)[\w.]*)?-(?=[a-z])(.+)")
# Second witness for drivers that may be built in without a name in modules.builtin: their kernel options.
CONFIG_OF = {
    "ahci": "CONFIG_SATA_AHCI",
    "ata_piix": "CONFIG_ATA_PIIX",
    "e1000e": "CONFIG_E1000E",
    "ext4": "CONFIG_EXT4_FS",
    "nvme": "CONFIG_BLK_DEV_NVME",
    "nvme_core": "CONFIG_NVME_CORE",
    "pcieport": "CONFIG_PCIEPORTBUS",
    "pcieportdrv": "CONFIG_PCIEPORTBUS",
    "scsi_mod": "CONFIG_SCSI",
    "sd_mod": "CONFIG_BLK_DEV_SD",
    "virtio_blk": "CONFIG_VIRTIO_BLK",
    "virtio_net": "CONFIG_VIRTIO_NET",
    "virtio_pci": "CONFIG_VIRTIO_PCI",
    "virtio_scsi": "CONFIG_SCSI_VIRTIO",
    "xfs": "CONFIG_XFS_FS",
}
# Devices that the kernel's own core drives, whatever its modules: PCI bridges and root complexes.
CORE_DEVICE = re.compile(r"pci:.*bc06sc(00|01|04)i|acpi:(PNP0A03|PNP0A08|LNXSYBUS|LNXSYSTM|ACPI0004)|acpi:PNP0A0[38]:")

# Classes of device with one driver for all makers: their names when nobody has seen the device bound.
CLASS_DRIVERS = (
    (re.compile(r"pci:.*bc01sc06i01"), "ahci"),
    (re.compile(r"pci:.*bc01sc08i02"), "nvme"),
    (re.compile(r"scsi:t-0x(00|0e)"), "sd_mod"),
)
# Mass storage and network controllers do nothing without a driver: "nobody knows one" is no excuse for these.
ESSENTIAL_DEVICE = re.compile(r"pci:.*bc0[12]|virtio:d0000000[128]v|xen:v(bd|if)|usb:.*ic08")


def fold(name: str) -> str:
    """A module name as the kernel spells it: dashes become underscores."""
    return name.replace("-", "_")


def flavour_of(release: str) -> str:
    """``6.1.0-56-cloud-amd64`` → ``cloud-amd64``; "" when a release has none."""
    found = _FLAVOUR.fullmatch(release)
    return found[1] if found else ""


def fold_alias(alias: str) -> str:
    """As kmod normalises an alias: dashes become underscores, except in a [set]."""
    if "-" not in alias:
        return alias
    if "[" not in alias:
        return alias.replace("-", "_")
    return "".join(
        part if part.startswith("[") else part.replace("-", "_") for part in re.split(r"(\[[^\]]*\])", alias)
    )


def module_name(path: str) -> str:
    """``kernel/drivers/net/e1000e/e1000e.ko.xz`` → ``e1000e``."""
    return fold(_SUFFIX.sub("", path.rsplit("/", 1)[-1]))


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    # fnmatch(3) takes [^…] for [!…]; Python's fnmatch does not.
    return re.compile(translate(pattern.replace("[^", "[!")))


class AliasIndex:
    """Patterns filed under their literal beginning."""

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self._filed: dict[str, list[tuple[str, str]]] = {}
        filed, wildcard = self._filed, _WILDCARD.search
        for pattern, module in pairs:
            folded = fold_alias(pattern)
            found = wildcard(folded)
            key = folded[: found.start()] if found else folded
            filed.setdefault(key, []).append((folded, module))
        self._lengths = sorted({len(key) for key in filed})

    def pairs(self) -> Iterable[tuple[str, str]]:
        """(pattern, module) of everything filed."""
        return (pair for pairs in self._filed.values() for pair in pairs)

    def match(self, alias: str) -> tuple[str, ...]:
        """Modules whose patterns match, each once."""
        # Only dashes of a pattern's [set] are kept; a device's own name has no sets.
        name = alias.replace("-", "_")
        found: dict[str, None] = {}
        for length in self._lengths:
            if length > len(name):
                break
            for pattern, module in self._filed.get(name[:length], ()):
                if pattern == name or _compiled(pattern).match(name):
                    found[module] = None
        return tuple(found)


@dataclass(frozen=True, slots=True)
class DeviceVerdict:
    """What a kernel has to say about one device."""

    verdict: Verdict
    modules: tuple[str, ...] = ()  # that drive it; the first is the best
    reason: str = ""


class KernelIndex:
    """One kernel: what it has as modules, what it has built in, and what those match."""

    def __init__(  # noqa: PLR0913 - the files of one kernel, each a parameter
        self,
        release: str,
        aliases: Iterable[tuple[str, str]],
        *,
        depends: Mapping[str, tuple[str, ...]],
        builtin: frozenset[str],
        builtin_aliases: Iterable[tuple[str, str]] = (),
        softdeps: Mapping[str, tuple[str, ...]] | None = None,
        config: Mapping[str, str] | None = None,
        paths: Mapping[str, str] | None = None,
        firmware: Mapping[str, tuple[str, ...]] | None = None,
    ) -> None:
        self.release = release
        self._aliases = AliasIndex(aliases)
        self._builtin_aliases = AliasIndex(builtin_aliases)
        self._depends = depends
        self._softdeps = softdeps or {}
        self._config = config or {}
        self.paths = paths or {}  # module → its file in the tree
        self.firmware = firmware or {}  # module → what it may load, as far as a component says
        self.builtin = builtin

    @classmethod
    def from_tree(cls, tree: Tree, release: str) -> KernelIndex:
        """The kernel ``release`` as installed in ``tree``; empty (everything absent) when it is not there."""
        below = next((f"{d}/{release}" for d in MODULE_DIRECTORIES if tree.exists(f"{d}/{release}")), "")
        dependencies = read_text(tree, f"{below}/modules.dep")
        return cls(
            release,
            _alias_lines(read_text(tree, f"{below}/modules.alias")),
            depends=_dep_lines(dependencies),
            paths={module_name(path): f"{below}/{path}" for path in re.findall(r"^([^:\n]+):", dependencies, re.M)},
            builtin=frozenset(module_name(line) for line in read_text(tree, f"{below}/modules.builtin").split()),
            builtin_aliases=_modinfo_aliases(read_text(tree, f"{below}/modules.builtin.modinfo")),
            softdeps=_softdep_lines(read_text(tree, f"{below}/modules.softdep")),
            config=_config_lines(read_text(tree, f"/boot/config-{release}")),
        )

    @classmethod
    def from_component(cls, component: Component) -> KernelIndex:
        """The kernel a component would install."""
        firmware: dict[str, tuple[str, ...]] = {}
        for line in component.needs_firmware:
            path, _, module = line.rpartition(" ")
            firmware[fold(module)] = (*firmware.get(fold(module), ()), path)
        return cls(
            component.kernel_release,
            (_split_alias(line) for line in component.modaliases),
            depends={fold(name): () for name in component.modules},
            builtin=frozenset(fold(name) for name in component.builtin),
            firmware=firmware,
        )

    def joined(self, component: Component) -> KernelIndex:
        """This kernel with the modules of a component that was built for it."""
        more = KernelIndex.from_component(component)
        return KernelIndex(
            self.release,
            (*self._aliases.pairs(), *more._aliases.pairs()),
            depends={**more._depends, **self._depends},
            builtin=self.builtin | more.builtin,
            builtin_aliases=tuple(self._builtin_aliases.pairs()),
            softdeps=self._softdeps,
            config=self._config,
            paths=self.paths,
            firmware={**self.firmware, **more.firmware},
        )

    @property
    def modules(self) -> frozenset[str]:
        return frozenset(self._depends)

    @property
    def empty(self) -> bool:
        """Nothing is known about this kernel."""
        return not self._depends and not self.builtin

    def match(self, alias: str) -> tuple[str, ...]:
        """What ``modprobe -R alias`` prints: a module of that name, else by alias, else built-in ones."""
        if fold(alias) in self._depends:
            return (fold(alias),)
        found = self._aliases.match(alias)
        if found:
            return found
        if fold(alias) in self.builtin:
            return (fold(alias),)
        return self._builtin_aliases.match(alias)

    def has_builtin(self, module: str) -> bool:
        """Built in by name, or by the kernel's configuration."""
        name = fold(module)
        return name in self.builtin or self._config.get(CONFIG_OF.get(name, ""), "") == "y"

    def has_module(self, module: str) -> bool:
        return fold(module) in self._depends

    def verdict(self, link: ChainLink, live_modules: Sequence[str] = ()) -> DeviceVerdict:
        """Whether this kernel drives a device; ``live_modules`` are what another kernel's aliases say drives it.

        Built-in drivers publish no bus aliases before Linux 6.18, so that a device without an alias is only
        *absent* when no name it is known by elsewhere is built in.
        """
        if CORE_DEVICE.match(link.modalias) and not link.driver:
            return DeviceVerdict(Verdict.NOT_APPLICABLE, (), "driven by the kernel's core")
        matched = self.match(link.modalias) if link.modalias else ()
        loadable = tuple(name for name in matched if self.has_module(name))
        by_class = tuple(module for pattern, module in CLASS_DRIVERS if pattern.match(link.modalias))
        names = tuple(dict.fromkeys(fold(name) for name in (link.driver, *live_modules, *by_class) if name))
        if loadable:
            # What drives it now comes first, though other kernels name others for it as well (ata_generic, ata_piix).
            best = tuple(sorted(loadable, key=lambda name: (name != fold(link.driver), name not in names)))
            return DeviceVerdict(Verdict.MODULE, best, f"modules.alias of {self.release} names {best[0]}")
        for name in (*matched, *names):
            if self.has_builtin(name):
                return DeviceVerdict(Verdict.BUILTIN, (name,), f"{name} is built into {self.release}")
        if not names and ESSENTIAL_DEVICE.match(link.modalias):
            return DeviceVerdict(Verdict.ABSENT, (), f"{self.release} has no driver for {link.modalias}")
        if not names:
            return DeviceVerdict(Verdict.NOT_APPLICABLE, (), "no known driver asks for it")
        for name in names:
            if self.has_module(name):
                reason = f"{self.release} has {name}, but that version does not know this device"
                return DeviceVerdict(Verdict.DRIVER_WITHOUT_ID, (name,), reason)
        if CORE_DEVICE.match(link.modalias):
            return DeviceVerdict(Verdict.NOT_APPLICABLE, (), "driven by the kernel's core")
        return DeviceVerdict(Verdict.ABSENT, names, f"{self.release} has no {' or '.join(names)}")

    def closure(self, modules: Iterable[str]) -> tuple[str, ...]:
        """The modules and everything they need: hard dependencies, and soft ones that name modules of this kernel."""
        found: dict[str, None] = {}
        queue = [fold(name) for name in modules]
        while queue:
            name = queue.pop()
            if name in found or name not in self._depends:
                continue
            found[name] = None
            queue.extend(self._depends[name])
            queue.extend(fold(soft) for soft in self._softdeps.get(name, ()))
        return tuple(sorted(found))

    def chain_modules(self, chain: Sequence[ChainLink], live: KernelIndex | None = None) -> tuple[str, ...]:
        """Modules (with what they need) for every link of a chain; built-in and core-driven links need none."""
        best = []
        for link in chain:
            found = self.verdict(link, live.match(link.modalias) if live else ())
            if found.verdict is Verdict.MODULE:
                best.append(found.modules[0])
        return self.closure(best)

    def filesystem_modules(self, kinds: Iterable[str]) -> tuple[str, ...]:
        """Modules (with what they need) that mount file systems of these kinds."""
        names = [name for kind in kinds for name in self.match(f"fs-{kind}") if self.has_module(name)]
        return self.closure(names)


def boot_modules(
    index: KernelIndex, chain: Sequence[ChainLink], filesystems: Iterable[str], live: KernelIndex | None = None
) -> tuple[str, ...]:
    """What an initramfs must carry to reach a root file system of these kinds on a disk behind this chain."""
    return tuple(sorted({*index.chain_modules(chain, live), *index.filesystem_modules(filesystems)}))


def _split_alias(line: str) -> tuple[str, str]:
    pattern, _, module = line.rpartition(" ")
    return pattern, fold(module)


def _alias_lines(text: str) -> Iterable[tuple[str, str]]:
    for line in text.splitlines():
        if line.startswith("alias "):
            yield _split_alias(line[6:])


def _dep_lines(text: str) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for line in text.splitlines():
        path, colon, needs = line.partition(":")
        if colon:
            found[module_name(path)] = tuple(module_name(need) for need in needs.split())
    return found


def _softdep_lines(text: str) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) > 2 and words[0] == "softdep":
            soft = tuple(word for word in words[2:] if word not in ("pre:", "post:"))
            found[fold(words[1])] = found.get(fold(words[1]), ()) + soft
    return found


def _modinfo_aliases(text: str) -> Iterable[tuple[str, str]]:
    for record in text.split("\0"):
        key, equals, value = record.partition("=")
        module, _, field = key.partition(".")
        if equals and field == "alias":
            yield value, fold(module)


def _config_lines(text: str) -> dict[str, str]:
    lines = (line.partition("=") for line in text.splitlines() if line.startswith("CONFIG_"))
    return {name: value for name, _, value in lines if value in ("y", "m")}
