"""A planned disk, pretended to the programs of a throw-away copy: GRUB's hooks ask what the root lies on.

The copy lies on an overlay, which no grub-probe understands. In its place stands a program that answers from the plan,
so that update-grub, which every kernel package runs, does its work and its grub.cfg can be looked at.
"""

from __future__ import annotations

import re
from pathlib import Path

from agent.model.plan import MakeFilesystem, Plan, WriteTable
from agent.restore.inside import InsideRoot
from agent.restore.sandbox import Sandbox

PROBES = ("/usr/sbin/grub-probe", "/usr/bin/grub-probe", "/usr/sbin/grub2-probe", "/usr/bin/grub2-probe")
_UUID = re.compile(r"[A-Za-z0-9-]+")
_NAMES = {"ext3": "ext2", "ext4": "ext2", "vfat": "fat"}  # as grub-probe says it (GRUB, grub-core/fs)
# Arguments as grub-probe(8) has them. The lines of case are made below: a path's or device's number, then its facts.
_PROBE = """\
#!/bin/sh
target=fs; device=; path=
while [ $# -gt 0 ]; do
    case "$1" in
    --target=*) target=${1#--target=} ;;
    -t|--target) target=$2; shift ;;
    -d|--device) device=yes ;;
    -m|--device-map) shift ;;
    -*) ;;
    *) path=${path:-$1} ;;
    esac
    shift
done
[ -n "$device" ] || [ -e "$path" ] || { echo "grub-probe: error: there is no $path" >&2; exit 1; }
case "$path" in
@CASES@
esac
case "$target" in
device) echo "/dev/planned$number" ;;
fs_uuid) echo "$uuid" ;;
fs) echo "$fs" ;;
partmap) echo "@PARTMAP@" ;;
drive) echo "(hd0,@PARTMAP@$number)" ;;
disk) echo /dev/planned ;;
esac
exit 0
"""


def sandbox_on(plan: Plan, root: Path, folder: Path) -> Sandbox:
    """The sandbox of a copy below ``root``; the stand-in is made in ``folder``."""
    made = [step for step in plan.steps if isinstance(step, MakeFilesystem) and _UUID.fullmatch(step.filesystem.uuid)]
    table = next((step.table for step in plan.steps if isinstance(step, WriteTable)), "gpt")
    probe = folder / "grub-probe"
    probe.write_text(probe_script(made, table))
    probe.chmod(0o755)
    inside = InsideRoot(root)
    # Another name of the same file, as after the merge of /usr, would be covered twice.
    places = {inside.real(path): path for path in PROBES if inside.exists(path)}
    links = [(f"disk/by-uuid/{step.filesystem.uuid}", "../../null") for step in made]
    return Sandbox(root, stand_ins=dict.fromkeys(places.values(), probe), links=links)


def probe_script(made: list[MakeFilesystem], table: str) -> str:
    """A grub-probe for these file systems. Nothing of a plan reaches it but numbers, UUIDs and known names."""
    mounted = sorted((step for step in made if step.filesystem.mountpoint), key=_deepest_first)
    lines = [(step, f") number={step.partition} uuid={step.filesystem.uuid} fs={_kind(step)} ;;") for step in mounted]
    devices = [f"/dev/planned{step.partition}{line}" for step, line in lines]
    places = [f"{place or '/'}|{place}/*{line}" for step, line in lines if (place := _place(step)) is not None]
    cases = [*devices, *places]
    return _PROBE.replace("@CASES@", "\n".join(cases)).replace("@PARTMAP@", "msdos" if table == "mbr" else "gpt")


def _deepest_first(step: MakeFilesystem) -> int:
    return -len(step.filesystem.mountpoint.rstrip("/"))


def _place(step: MakeFilesystem) -> str | None:
    """A mount point as a pattern of a shell's case, "" for the root; None where a shell would read more in it."""
    place = step.filesystem.mountpoint.rstrip("/")
    return place if re.fullmatch(r"[A-Za-z0-9/_-]*", place) else None


def _kind(step: MakeFilesystem) -> str:
    kind = step.filesystem.kind
    return _NAMES.get(kind, kind if kind.isalnum() else "unknown")
