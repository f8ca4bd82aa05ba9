"""The hardware configuration of a profile as one digest: devices, disk layout, network addressing.

Two profiles of one machine have the same fingerprint as long as nobody changed its hardware, its partitions or its
addresses. Kernel names, leases, fill levels and what is plugged in for a while (USB, removable disks) do not count, nor
do devices that only exist while some module is loaded.
"""

from __future__ import annotations

import hashlib
import json

from agent.model.profile import Network, Profile
from agent.model.storage import Disk, Partition

BUSES = frozenset({"pci", "virtio", "vmbus"})


def hardware_fingerprint(profile: Profile) -> str:
    """SHA-256 in hexadecimal; of a profile without hardware sections it says nothing about hardware."""
    facts = {
        "devices": sorted(device.key for device in profile.devices if device.bus in BUSES),
        "disks": sorted(_disk_facts(disk) for disk in profile.disks if _lasting(disk)),
        "network": _network_facts(profile.network),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _lasting(disk: Disk) -> bool:
    return not disk.removable and disk.transport != "usb"


def _disk_facts(disk: Disk) -> list[object]:
    return [
        disk.size_bytes,
        disk.logical_sector_bytes,
        disk.table,
        disk.table_id,
        disk.holds.kind if disk.holds else "",
        [_partition_facts(partition) for partition in disk.partitions],
    ]


def _partition_facts(partition: Partition) -> list[object]:
    holds = (partition.holds.kind, partition.holds.uuid) if partition.holds else ("", "")
    return [partition.number, partition.start_bytes, partition.size_bytes, partition.type, partition.part_uuid, *holds]


def _network_facts(network: Network) -> list[object]:
    cards = sorted(nic.mac for nic in network.nics)
    configs = sorted((c.backend, c.path, *sorted(c.interfaces), *sorted(c.addresses)) for c in network.configs)
    return [cards, configs]
