"""Types of partitions, as GPT and MBR write them."""

from __future__ import annotations

ESP = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
ESP_MBR = "0xef"
BIOS_BOOT = "21686148-6449-6e6f-744e-656564454649"
LINUX = "0fc63daf-8483-4772-8e79-3d69d8477de4"
EXTENDED_TYPES = frozenset({"0x5", "0x05", "0xf", "0x0f", "0x85"})
_SWAP = "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f"
BASIC_DATA = "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7"
LINUX_MBR = "0x83"
_BOTH = {  # types that mean the same in both tables
    0x82: _SWAP,
    0x8E: "e6d6d379-f507-44c2-a23c-238f2a3df928",
    0xFD: "a19d880f-05fc-4d3b-a006-743f0f84911e",
    0xEF: ESP,
}
_MBR_OF_GPT = {guid: f"{number:#x}" for number, guid in _BOTH.items()} | {BASIC_DATA: "0x7"}
_GPT_OF_MBR = {
    **_BOTH,
    **dict.fromkeys((0x01, 0x04, 0x06, 0x07, 0x0B, 0x0C, 0x0E), BASIC_DATA),
}


def is_esp(kind: str) -> bool:
    return kind.lower() in (ESP, ESP_MBR)


def is_bios_boot(kind: str) -> bool:
    return kind.lower() == BIOS_BOOT


def type_in_gpt(kind: str) -> str:
    """The GPT type for an MBR one; GPT types stay."""
    if not kind.startswith("0x"):
        return kind.lower()
    return _GPT_OF_MBR.get(int(kind, 16), LINUX)


def type_in_mbr(kind: str) -> str:
    """The MBR type for a GPT one; MBR types stay."""
    return kind.lower() if kind.startswith("0x") else _MBR_OF_GPT.get(kind.lower(), LINUX_MBR)
