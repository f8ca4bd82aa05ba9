"""Addresses as configuration files write them."""

from __future__ import annotations

import ipaddress


def static(address: str, prefix: str = "") -> list[str]:
    """``address/prefix`` from an address and a prefix length or netmask; nothing when it is no address."""
    address = address.strip().strip("\"'")
    if not address:
        return []
    whole = address if "/" in address or not prefix else f"{address}/{prefix}"
    try:
        return [str(ipaddress.ip_interface(whole))]
    except ValueError:
        return []
