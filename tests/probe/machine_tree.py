"""A machine's /sys, /proc and /etc as files below a temporary directory."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class MachineTree:
    root: Path

    def text(self, path: str, content: str | bytes) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return file

    def link(self, path: str, target: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        os.symlink(target, file)

    def device(self, place: str, driver: str = "", module: str = "", subsystem: str = "", **files: str | bytes) -> Path:
        """A device below /sys/devices, with files by their names; ``driver`` and ``subsystem`` are links."""
        path = f"sys/devices/{place}"
        self.text(f"{path}/uevent", files.pop("uevent", ""))
        for name, content in files.items():
            self.text(f"{path}/{name}", content)
        if driver:
            self.link(f"{path}/driver", str(self.root / f"sys/bus/x/drivers/{driver}"))
            (self.root / f"sys/bus/x/drivers/{driver}").mkdir(parents=True, exist_ok=True)
        if module:
            self.link(f"sys/bus/x/drivers/{driver}/module", f"../../../../module/{module}")
        if subsystem:
            self.link(f"{path}/subsystem", f"/sys/{subsystem}")
        return self.root / path

    def block(self, place: str, device: str = "", number: str = "", **files: str | bytes) -> Path:
        """A block device, found below /sys/class/block, and by its number."""
        path = self.device(place, **files)  # type: ignore[arg-type] # names of files
        if device:
            self.link(f"sys/devices/{place}/device", device)
        self.link(f"sys/class/block/{path.name}", str(path))
        if number:
            self.link(f"sys/dev/block/{number}", f"../../devices/{place}")
        return path
