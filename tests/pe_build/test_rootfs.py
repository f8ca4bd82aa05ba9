"""What the shell of the live system takes a bare name for."""

from __future__ import annotations

from pathlib import Path

from pe_build.rootfs import aliases


def test_full_programs_come_before_those_of_busybox(tmp_path: Path) -> None:
    for folder in ("usr/bin", "usr/sbin"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "usr/bin/busybox").touch()
    (tmp_path / "usr/bin/ls").symlink_to("busybox")
    (tmp_path / "usr/bin/mount").touch()
    (tmp_path / "usr/sbin/reboot").symlink_to("/usr/lib/regraft/leave")
    (tmp_path / "usr/sbin/mkfs.ext4").symlink_to("mke2fs")  # a link that dangles here: its target comes later
    found = aliases(tmp_path, ["[", "ls", "mount", "reboot", "mkfs.ext4", "vi"])
    assert found.splitlines() == [
        "alias mount=/usr/bin/mount",
        "alias reboot=/usr/sbin/reboot",
        "alias mkfs.ext4=/usr/sbin/mkfs.ext4",
    ]
