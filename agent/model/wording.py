"""How values are put into words: sizes, times, and texts from outside that must not steer a terminal."""

from __future__ import annotations

import unicodedata

# Cc: C0 and C1 controls; Cf: bidirectional overrides and other invisible marks that make a line read as
# another one; Cs: lone surrogates, which are file names that are not UTF-8; Co, Cn: no agreed glyph;
# Zl, Zp: line breaks of their own.
UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def printable(text: str, limit: int = 2000) -> str:
    """``text`` on one line, safe for any terminal: what cannot be shown is written as an escape."""
    if text.isascii() and text.isprintable() and len(text) <= limit:
        return text
    shown = "".join(_escape(char) if unicodedata.category(char) in UNPRINTABLE else char for char in text[:limit])
    return shown + "…" if len(text) > limit else shown


def well_formed(text: str) -> str:
    """``text`` as it may travel in JSON: bytes of names that are not UTF-8 become ``\\xff``, the rest stays."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return "".join(_escape(char) if "\ud800" <= char <= "\udfff" else char for char in text)
    return text


def _escape(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # surrogateescape: a byte of a name that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return {"\n": "\\n", "\t": "\\t", "\r": "\\r"}.get(char) or (
        f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    )


def size_text(size_bytes: int) -> str:
    """Sizes of disks, partitions and images: ``238.5 GiB``."""
    if abs(size_bytes) < 1024:
        return f"{size_bytes} bytes"
    units = ("KiB", "MiB", "GiB", "TiB", "PiB")
    step = next((n for n in range(1, len(units)) if abs(size_bytes) < 1023.95 * 1024**n), len(units))
    return f"{size_bytes / 1024**step:.1f} {units[step - 1]}"


def amount_text(size_bytes: float) -> str:
    """Amounts that move, beside rates in MB/s, so in the same decimal units: ``118.2 MB``."""
    if abs(size_bytes) < 999_950_000:
        return f"{size_bytes / 1e6:.1f} MB"
    return f"{size_bytes / 1e9:.2f} GB"


def duration_text(seconds: float) -> str:
    """``3.2 s``, ``4 min 07 s``, ``2 h 05 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
