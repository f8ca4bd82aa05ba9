"""What the files of a package say it provides, gathered in one pass; whatever kind of package it is.

lib/modules/<release>/…  modules, modaliases, firmware they ask for
lib/firmware/…           firmware
boot/vmlinuz-<release>   a kernel
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from agent.errors import DamagedError
from agent.model.drivers import fold, module_name
from agent.model.image import Component
from agent.model.modinfo import modinfo

MODULE_LIMIT_BYTES = 256 << 20
MODULE = re.compile(r"(?:usr/)?lib/modules/([^/]+)/.+\.ko(\.xz|\.zst|\.gz)?")
BUILTIN = re.compile(r"(?:usr/)?lib/modules/([^/]+)/modules\.builtin")
FIRMWARE = re.compile(r"(?:usr/)?lib/firmware/(.+)")
_KERNEL = re.compile(r"boot/(?:vmlinuz|bzImage)-(.+)|(?:usr/)?lib/modules/([^/]+)/vmlinuz")
_LOADERS = ("usr/lib/grub/", "usr/lib/shim/", "usr/lib/systemd/boot/efi/", "usr/share/grub2/", "usr/share/efi/")
_RELEASE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]{0,99}")
_MODULE_NAME = re.compile(r"[A-Za-z0-9_]{1,80}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# What a shell, a rule or a table reads as more than a word: no module and no firmware has such a name.
_SHELL = re.compile(r"""[$`;|&<>"'\\*?!(){}\[\]#]""")


def check_path(name: str, place: str, *, own: bool = False) -> str:
    """A path of a package without its leading ``./``; DamagedError for one that must not be.

    ``own``: this program will write it, so that names with shell characters are refused as well.
    """
    plain = name.removeprefix("./")
    if plain.startswith("/"):
        raise DamagedError(f"{place}: ‘{name}’ is an absolute path", "such a package is not installed")
    if ".." in plain.split("/"):
        raise DamagedError(f"{place}: ‘{name}’ leads out of the root", "such a package is not installed")
    if _CONTROL.search(plain):
        raise DamagedError(f"{place}: {plain!r} has control characters in its name", "such a package is not installed")
    if _SHELL.search(plain) and (own or MODULE.fullmatch(plain) or FIRMWARE.fullmatch(plain)):
        raise DamagedError(f"{place}: ‘{plain}’ has shell characters in its name", "such a package is not installed")
    return plain


def check_link(name: str, target: str, place: str, *, own: bool = False) -> None:
    """A symbolic link of a package. One that this program will make must be relative; none leads out of the root."""
    if own and target.startswith("/"):
        raise DamagedError(f"{place}: ‘{name}’ is an absolute link, to ‘{target}’", "make it relative")
    depth = 0 if target.startswith("/") else len([part for part in name.split("/")[:-1] if part not in ("", ".")])
    for part in target.split("/"):
        depth += {"..": -1, "": 0, ".": 0}.get(part, 1)
        if depth < 0:
            raise DamagedError(f"{place}: the link ‘{name}’ leads out of the root, to ‘{target}’")


@dataclass
class Contents:
    """``place`` names the package in messages."""

    place: str
    release: str = ""
    kernel: bool = False
    modules: list[str] = field(default_factory=list)
    modaliases: list[str] = field(default_factory=list)
    builtin: list[str] = field(default_factory=list)
    firmware: list[str] = field(default_factory=list)
    needs_firmware: set[str] = field(default_factory=set)
    loader: bool = False

    def wants(self, name: str) -> bool:
        """Whether the content of this file tells anything."""
        return bool(MODULE.fullmatch(name) or BUILTIN.fullmatch(name))

    def add_name(self, name: str) -> None:
        """A file or link of the package, by its path without a leading slash."""
        if kernel := _KERNEL.fullmatch(name):
            self.kernel = True
            self._set_release(kernel[1] or kernel[2], name)
        elif firmware := FIRMWARE.fullmatch(name):
            self.firmware.append(firmware[1])
        elif name.startswith(_LOADERS):
            self.loader = True

    def add_file(self, name: str, data: bytes) -> None:
        """The content of a file that is wanted."""
        if builtin := BUILTIN.fullmatch(name):
            self._set_release(builtin[1], name)
            self.builtin += [module_name(line) for line in data.decode("utf-8", "replace").split()]
        elif found := MODULE.fullmatch(name):
            self.add_module(name, found[1], data)

    def add_module(self, name: str, release: str, data: bytes) -> None:
        self._set_release(release, name)
        module = module_name(name)
        if not _MODULE_NAME.fullmatch(module):
            raise DamagedError(f"{self.place}: {name} is no name of a module")
        self.modules.append(module)
        for key, value in modinfo(data, name):
            if _CONTROL.search(value):
                continue  # no device and no file has such a name
            if key == "alias":
                self.modaliases.append(f"{value} {fold(module)}")
            elif key == "firmware":
                self.needs_firmware.add(f"{value} {module}")

    def _set_release(self, release: str, name: str) -> None:
        if not _RELEASE.fullmatch(release):
            raise DamagedError(f"{self.place}: {name}: ‘{release}’ is no release of a kernel")
        if self.release and release != self.release:
            raise DamagedError(
                f"{self.place}: {name} is for kernel {release}, other files of it are for {self.release}",
                "make a component for each kernel",
            )
        self.release = release

    @property
    def kind(self) -> str:
        if self.kernel:
            return "kernel"
        if self.modules:
            return "driver"
        if self.firmware:
            ucode = all(name.startswith(("intel-ucode/", "amd-ucode/")) for name in self.firmware)
            return "microcode" if ucode else "firmware"
        return "loader" if self.loader else "other"

    def fill(self, component: Component) -> Component:
        """The component with everything it provides, in an order of its own: equal packages give equal documents."""
        return replace(
            component,
            kind=self.kind,
            kernel_release=self.release,
            modaliases=tuple(sorted(self.modaliases, key=lambda line: line.rpartition(" ")[::-1])),
            modules=tuple(sorted(self.modules)),
            builtin=tuple(sorted(self.builtin)),
            firmware=tuple(sorted(self.firmware)),
            needs_firmware=tuple(sorted(self.needs_firmware)),
        )
