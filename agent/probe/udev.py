"""udev's database through pyudev: names of devices from the hardware database.

It is a help, never a need: where udev does not run, or libudev is missing, everything else comes from sysfs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyudev
import pyudev._ctypeslib.utils as pyudev_libraries

SONAMES = {"udev": "libudev.so.1", "libc": "libc.so.6", "c": "libc.so.6"}

# pyudev asks ctypes.util.find_library, which starts ldconfig, gcc and ld: none of them is in the PE, and a frozen
# program has no business starting compilers. The names are ABI; the dynamic linker finds them by itself.
pyudev_libraries.find_library = SONAMES.get


@dataclass(frozen=True, slots=True)
class UdevDatabase:
    """Properties of devices; ``context`` None: there is no udev here."""

    context: Any  # pyudev.Context | None; pyudev has no types

    @classmethod
    def open(cls, root: Path = Path("/")) -> UdevDatabase:
        """The database of the running machine; empty for files of another one, and where udev does not run."""
        if root != Path("/") or not Path("/run/udev/data").is_dir():
            return cls(None)
        try:
            return cls(pyudev.Context())
        except (ImportError, OSError):
            return cls(None)

    @property
    def present(self) -> bool:
        return self.context is not None

    def properties(self, device: Path) -> dict[str, str]:
        """Everything udev knows of the device at this path of /sys."""
        if self.context is None:
            return {}
        try:
            found = pyudev.Devices.from_sys_path(self.context, str(device.resolve()))
            return {str(key): str(value) for key, value in found.properties.items()}
        except (pyudev.DeviceNotFoundError, OSError, UnicodeDecodeError):
            return {}
