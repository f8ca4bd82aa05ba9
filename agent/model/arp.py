"""ARP packets that ask whether an IPv4 address is in use, as RFC 5227 (address conflict detection) has them."""

from __future__ import annotations

import ipaddress
import struct

ETH_P_ARP = 0x0806
_REQUEST = 1
_BROADCAST = b"\xff" * 6
# Ethernet: destination, source, type; ARP: hardware, protocol, lengths, operation, sender, target (RFC 826).
_LAYOUT = struct.Struct("!6s6sHHHBBH6s4s6s4s")


def probe_packet(own_mac: str, address: str) -> bytes:
    """A request for ``address`` whose sender has none yet (0.0.0.0), so that it spoils nobody's table."""
    mac, wanted = _bytes(own_mac), ipaddress.IPv4Address(address).packed
    return _LAYOUT.pack(
        _BROADCAST, mac, ETH_P_ARP, 1, 0x0800, 6, 4, _REQUEST, mac, bytes(4), bytes(6), wanted,
    )  # fmt: skip


def sender_of(packet: bytes) -> tuple[str, str] | None:
    """(IPv4 address, MAC address) that the packet's sender says it has; None of what is no ARP for IPv4."""
    if len(packet) < _LAYOUT.size:
        return None
    _, _, kind, hardware, protocol, mac_length, ip_length, _, mac, ip, _, _ = _LAYOUT.unpack_from(packet)
    if (kind, hardware, protocol, mac_length, ip_length) != (ETH_P_ARP, 1, 0x0800, 6, 4):
        return None
    return str(ipaddress.IPv4Address(ip)), ":".join(f"{byte:02x}" for byte in mac)


def _bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))
