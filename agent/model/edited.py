"""What an edited image is of: the machine it was made of, with the system that the edited tree holds. Pure.

An edit changes no hardware: platform, devices, disks and cards are the source's, and so is the fingerprint, unless
the edit changes the network configuration, which is part of it. What is read from the tree is read again, because
restores are planned on it: kernels, packages, units, files that name hardware.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from agent.errors import DoesNotFitError
from agent.model.profile import Profile
from agent.model.storage import FileSystem
from agent.model.wording import size_text

# What a system's files tell; the rest of a profile is its hardware's.
OF_THE_TREE = frozenset({"os", "software", "services", "hw-config", "identity"})
_TIME = "%Y-%m-%dT%H:%M:%SZ"


def edited_profile(source: Profile, tree: Profile) -> Profile:
    """``source`` with everything that its tree, probed anew, tells. Its time is the tree's, and later than before."""
    sections = {section.name: section for section in tree.sections if section.name in OF_THE_TREE}
    return replace(
        source,
        time=_later(tree.time, source.time),
        tool=tree.tool,
        sections=tuple(sections.get(section.name, section) for section in source.sections),
        network=replace(source.network, configs=tree.network.configs, leases=tree.network.leases),
        os=tree.os,
        packages=tree.packages,
        units=tree.units,
        config_files=tree.config_files,
        hostname=tree.hostname,
        identity=tree.identity,
    )


def _later(time: str, than: str) -> str:
    """Profiles are known by their second: two of one machine never share one."""
    if time > than:
        return time
    second = datetime.fromisoformat(than).timestamp() + 1
    return datetime.fromtimestamp(second, datetime.fromisoformat(than).tzinfo).strftime(_TIME)


def edited_filesystem(source: FileSystem, change_bytes: int, name: str) -> FileSystem:
    """The file system with what the edit added to its use, or took away. Raises DoesNotFitError when it overflows."""
    used = max(source.used_bytes + change_bytes, 0)
    if source.size_bytes and source.used_bytes and used > source.size_bytes:
        raise DoesNotFitError(
            f"volume {name} would hold {size_text(used)}, its file system has {size_text(source.size_bytes)}",
            "remove something from it; nothing was published",
        )
    return replace(source, used_bytes=used) if source.used_bytes else source
