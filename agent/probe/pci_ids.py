"""Names of PCI devices by the list that lspci reads, where udev has no database of its own: in the live system.

The list's form: https://pci-ids.ucw.cz/ (``vvvv  Vendor``, below it behind a tab ``dddd  Device``).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

PLACES = ("usr/share/misc/pci.ids", "usr/share/hwdata/pci.ids", "usr/share/pci.ids")


class PciNames:
    """The list of the system below ``root``, read when it is first asked; without one nothing has a name."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._list: bytes | None = None

    def names(self, vendor: str, product: str) -> tuple[str, str]:
        """Of vendor and device, each by its four hexadecimal digits; "" where the list does not have it."""
        if self._list is None:
            self._list = b"\n" + next(self._found(), b"")
        begin = self._list.find(f"\n{vendor.lower()}  ".encode()) + 1
        if not begin:
            return "", ""
        end = begin
        while (end := self._list.find(b"\n", end + 1)) >= 0 and self._list[end + 1 : end + 2] in (b"\t", b"#"):
            pass
        first, *lines = self._list[begin : end if end >= 0 else None].splitlines()
        wanted = f"\t{product.lower()}  ".encode()
        device = next((line[len(wanted) :] for line in lines if line.startswith(wanted)), b"")
        return first[6:].decode(errors="replace"), device.decode(errors="replace")

    def _found(self) -> Iterator[bytes]:
        for place in PLACES:
            try:
                yield (self._root / place).read_bytes()
            except OSError:
                continue
