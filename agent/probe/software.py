"""The system that is installed: release, kernels, boot loader, packages, units. Reads any tree."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from agent.model.edits import shell_values
from agent.model.package_version import version_key
from agent.model.profile import Kernel, OperatingSystem, Package, Unit
from agent.model.references import command_line_words
from agent.model.tree import Tree, read_text
from agent.probe.rpm_packages import database, read_rpm_packages

DPKG_STATUS = "/var/lib/dpkg/status"
MODULE_FOLDERS = ("/lib/modules", "/usr/lib/modules")
INITRDS = ("/boot/initrd.img-{}", "/boot/initramfs-{}.img", "/boot/initrd-{}", "/usr/lib/modules/{}/initrd")
LOADER_PACKAGE = re.compile(r"grub(?!-common$|2-common$|-theme|by).*|grub-common|grub2-common|shim.*|systemd-boot.*")
INITRD_TOOLS = (
    ("initramfs-tools", ("/usr/sbin/update-initramfs", "/sbin/update-initramfs")),
    ("dracut", ("/usr/bin/dracut", "/usr/sbin/dracut")),
    ("mkinitcpio", ("/usr/bin/mkinitcpio",)),
)
GRUB_FILES = ("/boot/grub/grub.cfg", "/boot/grub2/grub.cfg")
ESP_MOUNTPOINTS = ("/boot/efi", "/efi", "/boot")

# Fedora's rescue kernel is a copy that boots anywhere; nobody chooses it by default, and it is never rebuilt.
RESCUE = re.compile(r"0-rescue|rescue-[0-9a-f]{32}")
UNIT_FOLDERS = ("/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")
UNIT_KINDS = (".service", ".socket", ".timer", ".path", ".mount", ".swap")


# --- release, kernels, loader ---------------------------------------------------------------------------------------


def read_os(tree: Tree, packages: tuple[Package, ...], cmdline: str = "") -> OperatingSystem:
    """``cmdline``: of the running kernel; without it, what the loader's defaults give."""
    release = os_release(tree)
    names = sorted(package.name for package in packages)
    loaders = tuple(name for name in names if LOADER_PACKAGE.fullmatch(name))
    return OperatingSystem(
        id=release.get("ID", ""),
        version=release.get("VERSION_ID", ""),
        codename=release.get("VERSION_CODENAME", ""),
        name=release.get("PRETTY_NAME", ""),
        package_format=package_format(tree),
        loader=loader(tree, loaders),
        loader_packages=loaders,
        fallback_efi=fallback_efi(tree),
        cmdline=cmdline or " ".join(command_line_words(tree)),
        initrd_tool=next((tool for tool, paths in INITRD_TOOLS if any(tree.is_file(p) for p in paths)), ""),
        kernels=read_kernels(tree, packages),
    )


def os_release(tree: Tree) -> dict[str, str]:
    text = read_text(tree, "/etc/os-release") or read_text(tree, "/usr/lib/os-release")
    keys = re.findall(r"^([A-Z_]+)=", text, re.MULTILINE)
    return {key: shell_values(text, key)[-1] for key in keys if shell_values(text, key)}


def package_format(tree: Tree) -> str:
    if tree.is_file(DPKG_STATUS):
        return "deb"
    return "rpm" if database(tree) else "other"


def loader(tree: Tree, packages: tuple[str, ...]) -> str:
    if any(tree.is_file(path) for path in GRUB_FILES):
        return "grub2"
    if any(tree.is_file(f"{esp}/loader/loader.conf") for esp in ESP_MOUNTPOINTS):
        return "systemd-boot"
    if any(name.startswith("grub") for name in packages):
        return "grub2"
    return "other" if tree.list_dir("/boot/loader/entries") else ""


def fallback_efi(tree: Tree) -> bool:
    """FAT does not care about upper and lower case; an image of one does."""
    return any(_find(tree, esp, ("efi", "boot", "bootx64.efi")) for esp in ESP_MOUNTPOINTS)


def _find(tree: Tree, folder: str, names: tuple[str, ...]) -> bool:
    for name in tree.list_dir(folder):
        if name.casefold() == names[0] and (len(names) == 1 or _find(tree, f"{folder}/{name}", names[1:])):
            return True
    return False


def read_kernels(tree: Tree, packages: tuple[Package, ...]) -> tuple[Kernel, ...]:
    """Kernels with an image and modules, newest first; one of them is what boots when nobody chooses."""
    found: dict[str, Kernel] = {}
    names = {package.name for package in packages}
    for folder in MODULE_FOLDERS:
        for release in tree.list_dir(folder):
            images = (f"/boot/vmlinuz-{release}", f"{folder}/{release}/vmlinuz", f"/boot/vmlinux-{release}")
            image = next((path for path in images if tree.is_file(path)), "")
            if image and release not in found and not RESCUE.search(release):
                found[release] = Kernel(
                    release=release,
                    flavour=flavour_of(release),
                    package=kernel_package(release, names),
                    image=image,
                    initrd=next((p.format(release) for p in INITRDS if tree.is_file(p.format(release))), ""),
                )
    kernels = sorted(found.values(), key=lambda kernel: version_key(kernel.release), reverse=True)
    default = chosen_by_loader(tree, kernels)
    return tuple(replace(kernel, default=kernel.release == default) for kernel in kernels)


def flavour_of(release: str) -> str:
    """What stands behind the numbers: 6.1.0-40-cloud-amd64, 6.12.48+deb13-amd64, 6.4.0-150600.21-default."""
    words = release.split("-")[1:]
    while words and re.match(r"\d|rc\d+$|$", words[0]):
        words = words[1:]
    return "" if not words or words[-1].isdigit() else "-".join(words)


def kernel_package(release: str, installed: set[str]) -> str:
    """Debian names the release in the package; of rpm's kernels several of one name are installed side by side."""
    names = [f"linux-image-{release}", f"linux-image-unsigned-{release}", f"linux-image-{release}-unsigned"]
    flavour = flavour_of(release)  # SUSE's: 6.4.0-150600.23.7-default
    names += ["kernel-core", "kernel", f"kernel-{flavour}", f"kernel-{flavour}-base"]
    return next((name for name in names if name in installed), "")


def chosen_by_loader(tree: Tree, kernels: list[Kernel]) -> str:
    """GRUB boots the first of its list, which is the newest, unless its defaults name an entry with a release."""
    wanted = (shell_values(read_text(tree, "/etc/default/grub"), "GRUB_DEFAULT") or ["0"])[-1]
    if wanted == "saved":
        for folder in ("/boot/grub", "/boot/grub2"):
            found = re.search(r"^saved_entry=(.+)$", read_text(tree, f"{folder}/grubenv"), re.MULTILINE)
            wanted = found[1] if found else wanted
    for kernel in kernels:
        if re.search(rf"(?<![\w.]){re.escape(kernel.release)}(?![\w.]|-(?!advanced|recovery))", wanted):
            return kernel.release
    return kernels[0].release if kernels else ""


# --- packages -------------------------------------------------------------------------------------------------------


def read_packages(tree: Tree) -> tuple[Package, ...]:
    """Installed packages by name, from dpkg's own file or rpm's database; none where neither is or can be read."""
    if package_format(tree) == "rpm":
        return read_rpm_packages(tree)[0]
    found = (_package(stanza) for stanza in read_text(tree, DPKG_STATUS).split("\n\n"))
    return tuple(sorted((p for p in found if p), key=lambda package: (package.name, package.architecture)))


def _package(stanza: str) -> Package | None:
    values: dict[str, str] = {}
    for line in stanza.splitlines():
        key, colon, value = line.partition(":")
        if colon and key in ("Package", "Status", "Architecture", "Version"):
            values.setdefault(key, value.strip())
    if not values.get("Package") or values.get("Status", "").split()[-1:] != ["installed"]:
        return None
    return Package(values["Package"], values.get("Architecture", ""), values.get("Version", ""))


# --- units ----------------------------------------------------------------------------------------------------------


def read_units(tree: Tree) -> tuple[Unit, ...]:
    """What systemd would say of its unit files, from their links and their [Install] sections."""
    enabled = set(_linked(tree))
    enabled |= {re.sub(r"@.*\.", "@.", name) for name in enabled}  # a template, by its instances
    found: dict[str, str] = {}
    for folder in UNIT_FOLDERS:
        for name in tree.list_dir(folder):
            if name.endswith(UNIT_KINDS) and name not in found:
                state = unit_state(tree, f"{folder}/{name}", name, enabled)
                if state:
                    found[name] = state
    for name in enabled - found.keys():
        if name.endswith(UNIT_KINDS) and "@" in name and "@." not in name:
            found[name] = "enabled"
    for name in _generated(tree, found):
        found[name] = "generated"
    return tuple(Unit(name, state) for name, state in sorted(found.items()))


def unit_state(tree: Tree, path: str, name: str, enabled: set[str]) -> str:
    """ "" for a link that only gives a unit a second name."""
    target = tree.read_link(path)
    if target is not None and target.endswith("/dev/null"):
        return "masked"
    if target is not None and target.rpartition("/")[2] != name:
        return ""
    if not tree.is_file(path):
        return ""
    text = read_text(tree, path)
    if not text.strip():
        return "masked"
    if name in enabled:
        return "enabled"
    return "disabled" if re.search(r"^\[Install\]\s*\n(?!\s*(\[|\Z))", text, re.MULTILINE) else "static"


def _linked(tree: Tree) -> Iterator[str]:
    """Units that something wants, requires, or knows by an alias."""
    top = UNIT_FOLDERS[0]
    for name in tree.list_dir(top):
        if name.endswith((".wants", ".requires")):
            yield from tree.list_dir(f"{top}/{name}")
        else:
            target = tree.read_link(f"{top}/{name}")
            if target and not target.endswith("/dev/null"):
                yield target.rpartition("/")[2]


def _generated(tree: Tree, native: dict[str, str]) -> Iterator[str]:
    """Services of init scripts that have no unit file, not even one of another name."""
    known = {name for folder in UNIT_FOLDERS for name in tree.list_dir(folder)} | native.keys()
    for level in ("rcS.d", "rc2.d", "rc3.d", "rc5.d"):
        for name in tree.list_dir(f"/etc/{level}"):
            script = re.fullmatch(r"S\d\d(.+?)(\.sh)?", name)
            if script and f"{script[1]}.service" not in known:
                yield f"{script[1]}.service"
