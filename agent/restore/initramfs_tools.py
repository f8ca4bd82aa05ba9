"""initramfs-tools, made quick: the image's own tool runs, with one of its shell functions replaced for that run.

mkinitramfs copies modules one at a time and starts eight programs for each: of the 11,039 that it starts for Debian
12's generic kernel, 12 in 13 do that. The function below copies all modules of a call at once; the initramfs holds the
same files, and 631 programs are started. Nothing of it stays in the image.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from agent.restore.inside import InsideRoot

FUNCTIONS = "/usr/share/initramfs-tools/hook-functions"
# What the replacement relies on: the function it replaces copies what modprobe shows, and its two helpers are there.
# True of every initramfs-tools since 0.130 (Debian 9, Ubuntu 18.04).
_KNOWN = (
    re.compile(r"^manual_add_modules\(\)$", re.MULTILINE),
    re.compile(r"^copy_file\(\)", re.MULTILINE),
    re.compile(r"^add_firmware\(\)", re.MULTILINE),
    re.compile(r"modprobe --all --set-version=.* --show-depends \"\$@\""),
)
# DESTDIR has the links of a merged /usr already where the image has one; modules reached by a link go the old way.
_IN_BULK = r"""
manual_add_modules()
{
    local prefix kmod options new field value

    [ $# -eq 0 ] && return
    new="$(mktemp)"
    { /sbin/modprobe --all --set-version="${version?}" --ignore-install --quiet --show-depends "$@";
      /sbin/modprobe --all --set-version="${version}" --quiet --show-depends "$@"; } | sort -u |
    while read -r prefix kmod options; do
        [ "${prefix}" = "insmod" ] && [ ! -e "${DESTDIR}${kmod}" ] && [ -f "${kmod}" ] || continue
        case "${kmod}" in
        "/lib/modules/${version}/"*) [ -L "${kmod}" ] || echo "${kmod#/lib/modules/}" >&3 ;;
        esac
        echo "${kmod}"
    done 3> "${new}.plain" > "${new}"
    if [ -s "${new}.plain" ]; then
        (cd /lib/modules && xargs cp -pP --parents -t "${DESTDIR}/lib/modules" < "${new}.plain")
    fi
    if [ -s "${new}" ]; then
        while read -r kmod; do
            [ -e "${DESTDIR}${kmod}" ] || copy_file module "${kmod}"
        done < "${new}"
        xargs modinfo -k "${version}" < "${new}" | grep -E '^(filename|firmware):' |
        while read -r field value; do
            if [ "${field}" = "filename:" ]; then
                kmod="${value##*/}"
                kmod="${kmod%%.*}"
            elif ! add_firmware "${value}" && [ -e /proc/modules ] &&
                 grep -q "^${kmod}\\>" /proc/modules "${CONFDIR}/modules"; then
                echo "W: Possible missing firmware /lib/firmware/${value} for module ${kmod}" >&2
            fi
        done
    fi
    rm -f "${new}" "${new}.plain"
}
"""


@contextmanager
def in_bulk(inside: InsideRoot) -> Iterator[dict[str, Path]]:
    """Stand-ins for `Sandbox.run` of update-initramfs; none where the image's tool is not the one that is known."""
    text = (inside.read(FUNCTIONS) or b"").decode("utf-8", "surrogateescape")
    if not all(known.search(text) for known in _KNOWN):
        yield {}
        return
    with TemporaryDirectory(prefix="regraft-") as folder:
        file = Path(folder) / "hook-functions"
        file.write_text(text + _IN_BULK, "utf-8", "surrogateescape")
        yield {FUNCTIONS: file}
