"""The boot path's files, entries and answers. That it boots is proved by virtual machines, in tests/lab."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from agent.errors import PatchError
from agent.model.plan import DiskIdentity, InstallBootloader
from agent.process import Completed, ProcessError
from agent.restore import boot, esp, nvram
from agent.restore.disk import DiskHandle
from agent.restore.inside import InsideRoot

UUID = "6f1d3c52-2b70-4a52-9f0b-1a50c4b0a102"
OWN = "11111111-2222-4333-8444-000000000001"
GONE = "11111111-2222-4333-8444-00000000dead"
IDENTITY = DiskIdentity(name="sdx", model="", serial="", wwn="", size_bytes=1 << 30, logical_sector_bytes=512)
BIOS_STEP = InstallBootloader(firmware="bios", disk=IDENTITY, boot_filesystem_uuid=UUID, boot_directory="/boot")
LOADERS = esp.Loaders(b"MZ shim", b"MZ grub \0/EFI/debian\0 more", b"MZ manager", "the image")


def handle(tmp_path: Path) -> DiskHandle:
    return DiskHandle(IDENTITY, -1, Path("/dev/sdx"), tmp_path)


class Sandbox:
    """Remembers what it was asked to run."""

    def __init__(self) -> None:
        self.ran: list[list[str]] = []
        self.read: list[str] = []

    def run(self, argv: Sequence[str], files: Sequence[Path] = (), **_: Any) -> Completed:
        self.ran.append(list(argv))
        self.read += [file.read_text() for file in files]
        return Completed(0, "", "")


def install_bios(root: Path, sandbox: Sandbox | None = None) -> tuple[str, ...]:
    """By a sandbox that runs nothing."""
    remembering: Any = sandbox or Sandbox()
    return boot.install_bios(InsideRoot(root), remembering, BIOS_STEP, handle(root))


def lay(root: Path, *paths: str, data: bytes = b"x") -> None:
    for path in paths:
        place = root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)


# --- the EFI system partition -----------------------------------------------------------------------------------------


@pytest.mark.adapts("B13", "T1")
def test_loaders_stand_in_the_own_folder_and_on_the_fallback_path(tmp_path: Path) -> None:
    text = esp.stub(UUID, "/boot")
    written = esp.install(tmp_path, LOADERS, "debian", text)
    assert sorted(written) == [
        "EFI/BOOT/BOOTX64.EFI", "EFI/BOOT/grub.cfg", "EFI/BOOT/grubx64.efi", "EFI/BOOT/mmx64.efi",
        "EFI/debian/grub.cfg", "EFI/debian/grubx64.efi", "EFI/debian/mmx64.efi", "EFI/debian/shimx64.efi",
    ]  # fmt: skip
    assert (tmp_path / "EFI/BOOT/BOOTX64.EFI").read_bytes() == LOADERS.shim
    assert (tmp_path / "EFI/BOOT/grubx64.efi").read_bytes() == LOADERS.grub
    assert (tmp_path / "EFI/debian/grub.cfg").read_text() == text
    assert text.splitlines() == [
        f"search.fs_uuid {UUID} root", "set prefix=($root)'/boot/grub'", "configfile $prefix/grub.cfg",
    ]  # fmt: skip


@pytest.mark.adapts("B13", "T1")
def test_the_fallback_is_written_last(tmp_path: Path) -> None:
    written = esp.install(tmp_path, LOADERS, "debian", "x")
    assert written[-1] == "EFI/BOOT/BOOTX64.EFI"


def test_a_signed_grub_of_another_distribution_finds_its_stub_too(tmp_path: Path) -> None:
    written = esp.install(tmp_path, LOADERS, "ubuntu", "x")
    assert "EFI/ubuntu/shimx64.efi" in written
    assert "EFI/debian/grub.cfg" in written
    assert "EFI/debian/grubx64.efi" not in written


def test_what_fat_calls_the_same_is_the_same(tmp_path: Path) -> None:
    lay(tmp_path, "efi/boot/bootx64.efi", "efi/Microsoft/Boot/bootmgfw.efi", data=b"old")
    written = esp.install(tmp_path, LOADERS, "debian", "x")
    assert "efi/boot/bootx64.efi" in written
    assert (tmp_path / "efi/boot/bootx64.efi").read_bytes() == LOADERS.shim
    assert (tmp_path / "efi/Microsoft/Boot/bootmgfw.efi").read_bytes() == b"old"
    assert not (tmp_path / "EFI").exists()


@pytest.mark.parametrize("name", ["../../etc", "a/b", "", "x" * 40, "a b"])
def test_a_distributor_that_is_no_folder_name(tmp_path: Path, name: str) -> None:
    written = esp.install(tmp_path, LOADERS, name, "x")
    assert {path.split("/")[1] for path in written} == {"BOOT", "debian"}


@pytest.mark.parametrize(("uuid", "path"), [("x; reboot", "/boot"), (UUID, "/boot'; halt"), ("", "/boot"), (UUID, "b")])
def test_nothing_that_grub_would_execute_gets_into_the_stub(uuid: str, path: str) -> None:
    with pytest.raises(PatchError, match="cannot stand in a"):
        esp.stub(uuid, path)


def test_boot_of_its_own_and_subvolumes() -> None:
    assert "prefix=($root)'/grub'" in esp.stub(UUID, "/")
    assert "prefix=($root)'/@rootfs/boot/grub'" in esp.stub(UUID, "/@rootfs/boot")


def test_the_images_own_loaders_come_first_and_never_mixed(tmp_path: Path) -> None:
    image, medium = tmp_path / "image", tmp_path / "medium"
    for place, mark in ((image, b"image"), (medium, b"medium")):
        lay(place, "/usr/lib/shim/shimx64.efi.signed", "/usr/lib/shim/mmx64.efi.signed", data=mark)
    lay(medium, "/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed", data=b"medium")
    found = esp.find_loaders(image, medium)
    assert (found.shim, found.grub, found.manager) == (b"medium", b"medium", b"medium")
    lay(image, "/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed", data=b"image")
    found = esp.find_loaders(image, medium)
    assert (found.shim, found.grub, found.manager) == (b"image", b"image", b"image")


def test_no_loaders_anywhere(tmp_path: Path) -> None:
    with pytest.raises(PatchError, match="neither the image nor the medium"):
        esp.find_loaders(tmp_path, tmp_path)


# --- boot entries -----------------------------------------------------------------------------------------------------

PRINTED = f"""\
BootCurrent: 0001
Timeout: 0 seconds
BootOrder: 0001,0003,0000
Boot0000* UiApp\tFvVol(7cb8bdc9-f8eb-4f34-aaea-3ee4af6516a1)/FvFile(462caa21-7614-4503-836e-8ab6f4662331)
Boot0001* debian\tHD(1,GPT,{OWN.upper()},0x800,0x100000)/File(\\EFI\\debian\\shimx64.efi)
      dp: 04 01 2a 00
Boot0003  debian\tHD(1,GPT,{GONE},0x800,0x100000)/File(\\EFI\\debian\\shimx64.efi)
Boot000A* Windows Boot Manager\tHD(1,GPT,{GONE},0x800,0x32000)/\\EFI\\Microsoft\\Boot\\bootmgfw.efi
Boot0005* UEFI PXEv4 (MAC:525400123456)
"""


def test_entries_are_read() -> None:
    entries = nvram.parse_entries(PRINTED)
    assert [(e.number, e.label, e.partition) for e in entries] == [
        ("0000", "UiApp", ""), ("0001", "debian", OWN), ("0003", "debian", GONE),
        ("000A", "Windows Boot Manager", GONE), ("0005", "UEFI PXEv4 (MAC:525400123456)", ""),
    ]  # fmt: skip
    assert entries[1].loader == "\\EFI\\debian\\shimx64.efi"
    assert entries[3].loader == "\\EFI\\Microsoft\\Boot\\bootmgfw.efi"


def test_partitions_of_an_mbr_have_names_too() -> None:
    (entry,) = nvram.parse_entries("Boot0002* debian\tHD(2,MBR,0xdeadbeef,0x800,0x1)/File(x)\n")
    assert entry.partition == "deadbeef-02"


def test_only_own_entries_and_those_of_vanished_partitions_with_the_same_label_go() -> None:
    entries = nvram.parse_entries(PRINTED)
    assert nvram.stale(entries, "debian", OWN, frozenset({OWN})) == ("0001", "0003")
    assert nvram.stale(entries, "debian", OWN, frozenset({OWN, GONE})) == ("0001",)
    assert nvram.stale(entries, "ubuntu", OWN, frozenset()) == ()


class Firmware:
    """efibootmgr over a list of entries."""

    def __init__(self, keeps: bool = True) -> None:
        self.printed, self.keeps, self.calls = PRINTED, keeps, [["none"]]

    def run(self, argv: Sequence[Any], **_: Any) -> Completed:
        words = [str(word) for word in argv]
        self.calls.append(words)
        if "--delete-bootnum" in words:
            number = words[words.index("--bootnum") + 1]
            self.printed = "\n".join(line for line in self.printed.splitlines() if f"Boot{number}" not in line) + "\n"
        if "--create" in words and self.keeps:
            self.printed += f"Boot0007* debian\tHD(1,GPT,{OWN},0x800,0x1)/File({words[-1]})\n"
        return Completed(0, self.printed, "")


@pytest.fixture
def efivars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "efivars"
    lay(place, "BootOrder-8be4")
    monkeypatch.setattr(nvram, "EFIVARS", place)
    monkeypatch.setattr(nvram, "partitions_present", lambda: frozenset({OWN}))
    return place


@pytest.mark.adapts("B13", "T1")
def test_one_entry_is_left_whatever_was_there(efivars: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    firmware = Firmware()
    monkeypatch.setattr(nvram, "run", firmware.run)
    for _ in range(2):
        assert nvram.write_entry(Path("/dev/sdx"), 1, "debian", "\\EFI\\debian\\shimx64.efi", OWN) == ()
    assert [entry.number for entry in nvram.parse_entries(firmware.printed) if entry.label == "debian"] == ["0007"]
    assert "Windows" in firmware.printed


def test_firmware_that_forgets_or_fails_is_a_warning(efivars: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvram, "run", Firmware(keeps=False).run)
    monkeypatch.setattr(nvram, "stale", lambda *_: ("0001",))
    (said,) = nvram.write_entry(Path("/dev/sdx"), 1, "debian", "x", OWN)
    assert "did not keep" in said

    def fails(argv: Sequence[str], **_: Any) -> Completed:
        raise ProcessError(argv, 2, "", "EFI variables are not supported on this system.")

    monkeypatch.setattr(nvram, "run", fails)
    (said,) = nvram.write_entry(Path("/dev/sdx"), 1, "debian", "x", OWN)
    assert "not supported" in said
    assert "fallback" in said


def test_a_machine_started_by_bios_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvram, "EFIVARS", tmp_path / "none")
    (said,) = nvram.write_entry(Path("/dev/sdx"), 1, "debian", "x", OWN)
    assert "not started by UEFI" in said


# --- the image's own programs -----------------------------------------------------------------------------------------


def test_configuration_is_made_by_the_image_in_its_own_way(tmp_path: Path) -> None:
    for program, command in (
        ("/usr/sbin/update-grub", ["/usr/sbin/update-grub"]),
        ("/usr/sbin/grub2-mkconfig", ["/usr/sbin/grub2-mkconfig", "-o", "/boot/grub2/grub.cfg"]),
    ):
        root = tmp_path / program.rpartition("/")[2]
        lay(root, program)
        sandbox = Sandbox()
        boot.make_configuration(InsideRoot(root), sandbox)  # type: ignore[arg-type]
        assert sandbox.ran == [command]
        assert boot.configuration_path(InsideRoot(root)).startswith("/boot/grub")


def test_an_image_without_grub_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PatchError, match="has no GRUB"):
        boot.make_configuration(InsideRoot(tmp_path), Sandbox())  # type: ignore[arg-type]


@pytest.mark.adapts("B14", "T1")
@pytest.mark.parametrize(
    ("program", "folder"),
    [("grub-install", "lib/grub"), ("grub2-install", "lib/grub"), ("grub2-install", "share/grub2"),
     ("grub2-install", "lib/grub2")],
)  # fmt: skip
def test_bios_uses_the_images_own_grub_install(tmp_path: Path, program: str, folder: str) -> None:
    """Debian, the RHEL family, openSUSE, older SUSE."""
    lay(tmp_path, f"/usr/sbin/{program}", f"/usr/{folder}/i386-pc/kernel.img")
    sandbox = Sandbox()
    assert install_bios(tmp_path, sandbox) == ()
    assert sandbox.ran == [[f"/usr/sbin/{program}", "--target=i386-pc", "--no-floppy", "--recheck", "/dev/sdx"]]


@pytest.mark.parametrize("modules", [True, False])
@pytest.mark.adapts("B12", "B14", "T1")
def test_bios_without_it_uses_the_mediums(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, modules: bool) -> None:
    if modules:
        lay(tmp_path, "/usr/lib/grub/i386-pc/kernel.img")
    ran: list[list[str]] = []
    monkeypatch.setattr(boot, "run", lambda argv: ran.append([str(word) for word in argv]))
    sandbox = Sandbox()
    install_bios(tmp_path, sandbox)
    assert sandbox.ran == []
    assert not (tmp_path / "boot").exists(), "its menu is where the medium's GRUB looks"
    directory = f"{tmp_path}/usr/lib/grub/i386-pc" if modules else "/usr/lib/grub/i386-pc"
    assert f"--directory={directory}" in ran[0]
    assert f"--boot-directory={tmp_path}/boot" in ran[0]
    assert ran[0][-1] == "/dev/sdx"


@pytest.mark.parametrize(("firmware", "devices", "empty"), [("bios", "/dev/sdx", "false"), ("uefi", "", "true")])
@pytest.mark.adapts("B14", "T1")
def test_grub_pc_does_not_look_for_the_old_disk(tmp_path: Path, firmware: str, devices: str, empty: str) -> None:
    """An upgrade of grub-pc writes to the disks it remembers, and fails where they are gone."""
    step = InstallBootloader(firmware=firmware, disk=IDENTITY)
    sandbox = Sandbox()
    boot.tell_packages(InsideRoot(tmp_path), sandbox, step, handle(tmp_path))  # type: ignore[arg-type]
    assert sandbox.ran == [], "an image without grub-pc is left alone"
    lay(tmp_path, "/var/lib/dpkg/info/grub-pc.postinst", "/usr/bin/debconf-set-selections")
    boot.tell_packages(InsideRoot(tmp_path), sandbox, step, handle(tmp_path))  # type: ignore[arg-type]
    assert sandbox.ran == [["debconf-set-selections", "/run/regraft/answers"]]
    assert sandbox.read[0].splitlines() == [
        f"grub-pc grub-pc/install_devices multiselect {devices}",
        f"grub-pc grub-pc/install_devices_empty boolean {empty}",
    ]


# --- a mirror's disks ------------------------------------------------------------------------------------------------


class Watch:
    """Of changes: there are none."""

    def __init__(self, _: Path) -> None: ...

    def changed(self) -> tuple[str, ...]:
        return ()


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[DiskHandle, DiskHandle]]:
    """Two disks; the ESP of the first is mounted in the tree, that of the second nowhere."""
    for name in ("sdx", "sdy"):
        (tmp_path / name).write_bytes(b"")
    handles = [
        DiskHandle(
            structs.replace(IDENTITY, name=name), os.open(tmp_path / name, os.O_RDWR), Path(f"/dev/{name}"), tmp_path
        )
        for name in ("sdx", "sdy")
    ]
    monkeypatch.setattr(boot, "ChangeWatch", Watch)
    monkeypatch.setattr(boot, "make_configuration", lambda *_: None)
    monkeypatch.setattr(boot, "partition_node", lambda disk, number: Path(f"{disk.node}{number}"))
    monkeypatch.setattr(boot, "top_inside_filesystem", lambda _: "/")
    monkeypatch.setattr(boot, "signature", lambda node: {"PART_ENTRY_UUID": f"UUID-OF-{node.name.upper()}"})
    yield handles[0], handles[1]
    for each in handles:
        os.close(each.descriptor)


@pytest.mark.adapts("B13", "T1")
def test_both_disks_of_a_mirror_get_loaders_and_entries_and_the_first_is_the_first_choice(
    tmp_path: Path, pair: tuple[DiskHandle, DiskHandle], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    ran: list[list[str]] = []
    entries: list[tuple[Path, int, str, str, str]] = []
    own = root / "boot/efi"
    own.mkdir(parents=True)
    lay(root, "/usr/lib/shim/shimx64.efi.signed", data=b"MZ shim")
    lay(root, "/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed", data=LOADERS.grub)
    monkeypatch.setattr(boot, "where_mounted", lambda node, _: own if node.name == "sdx1" else None)

    def program(argv: Sequence[object], **_: object) -> Completed:
        ran.append([str(word) for word in argv])
        if ran[-1][0] == "umount":
            shutil.copytree(ran[-1][-1], tmp_path / "copy")
        return Completed(0, "", "")

    def registered(disk: Path, partition: int, label: str, loader: str, own: str) -> tuple[str, ...]:
        entries.append((disk, partition, label, loader, own))
        return ()

    monkeypatch.setattr(boot, "run", program)
    monkeypatch.setattr(nvram, "write_entry", registered)
    step = InstallBootloader(firmware="uefi", disk=IDENTITY, esp_partition=1, boot_filesystem_uuid=UUID, label="debian")
    # Sandbox is this file's stand-in: it starts no program.
    installed = boot.install_bootloader(root, Sandbox(), step, pair[0], [(pair[1], 1)])  # type: ignore[arg-type]
    for place in (own, tmp_path / "copy"):
        assert (place / "EFI/BOOT/BOOTX64.EFI").read_bytes() == b"MZ shim"
        assert f"search.fs_uuid {UUID} root" in (place / "EFI/debian/grub.cfg").read_text()
    assert [words[0] for words in ran] == ["mount", "umount"]
    assert ran[0][-2] == "/dev/sdy1"
    assert all(path.startswith("/boot/efi/") for path in installed.changed), "a copy is no path of the system"
    assert [(str(disk), label, uuid) for disk, _, label, _, uuid in entries] == [
        ("/dev/sdy", "debian (the mirror's other disk)", "uuid-of-sdy1"), ("/dev/sdx", "debian", "uuid-of-sdx1"),
    ]  # fmt: skip


@pytest.mark.adapts("B14", "T1")
def test_on_bios_both_disks_get_a_boot_sector_and_grub_pc_knows_both(
    tmp_path: Path, pair: tuple[DiskHandle, DiskHandle]
) -> None:
    root, sandbox = tmp_path / "root", Sandbox()
    lay(root, "/usr/sbin/grub-install", "/usr/lib/grub/i386-pc/kernel.img")
    lay(root, "/var/lib/dpkg/info/grub-pc.postinst", "/usr/bin/debconf-set-selections")
    step = InstallBootloader(firmware="bios", disk=IDENTITY)
    boot.install_bootloader(root, sandbox, step, pair[0], [(pair[1], 0)])  # type: ignore[arg-type]
    assert [words[-1] for words in sandbox.ran if "grub-install" in words[0]] == ["/dev/sdy", "/dev/sdx"]
    assert "install_devices multiselect /dev/sdx, /dev/sdy" in sandbox.read[0]


# --- the RHEL family and SUSE -----------------------------------------------------------------------------------------


@pytest.mark.adapts("B13", "T1")
@pytest.mark.parametrize(
    ("paths", "prefix"),
    [
        (("boot/efi/EFI/rocky/shimx64.efi", "boot/efi/EFI/rocky/grubx64.efi", "boot/efi/EFI/rocky/mmx64.efi"), "rocky"),
        (("usr/share/efi/x86_64/shim.efi", "usr/share/efi/x86_64/grub.efi", "usr/share/efi/x86_64/MokManager.efi"),
         "opensuse"),
    ],
)  # fmt: skip
def test_loaders_lie_where_their_family_keeps_them(tmp_path: Path, paths: tuple[str, ...], prefix: str) -> None:
    root, place = tmp_path / "root", tmp_path / "esp"
    lay(root, *paths, data=b"MZ")
    (root / paths[1]).write_bytes(f"MZ \0/EFI/{prefix}\0".encode())
    found = esp.find_loaders(root, tmp_path / "no-medium")
    assert found.prefix == prefix and found.manager and found.origin == "the image"
    written = esp.install(place, found, prefix, esp.stub(UUID, "/boot", "grub2"))
    assert {f"EFI/{prefix}/grub.cfg", f"EFI/{prefix}/shimx64.efi", "EFI/BOOT/BOOTX64.EFI"} <= set(written)
    assert "'/boot/grub2'" in (place / f"EFI/{prefix}/grub.cfg").read_text()


@pytest.mark.adapts("B12", "T1")
def test_a_menu_of_entries_as_files_is_not_left_to_a_grub_that_cannot_read_it(tmp_path: Path) -> None:
    lay(tmp_path / "root", "boot/loader/entries/a.conf")
    lay(tmp_path / "medium", "usr/lib/shim/shimx64.efi.signed", "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed")
    with pytest.raises(PatchError, match="blscfg"):
        esp.find_loaders(tmp_path / "root", tmp_path / "medium")


@pytest.mark.adapts("B12", "T1")
def test_the_mediums_grub_for_bios_is_led_to_a_menu_of_another_family(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks in /boot/grub, and its modules lie there; their grub2-mkconfig writes to /boot/grub2."""
    monkeypatch.setattr(boot, "run", lambda _: None)
    monkeypatch.setattr(boot, "top_inside_filesystem", lambda _: "/@/")
    lay(tmp_path, "usr/sbin/grub2-mkconfig")
    written = install_bios(tmp_path)
    assert written == ("/boot/grub/grub.cfg",)
    assert (tmp_path / "boot/grub/grub.cfg").read_text().splitlines() == [
        f"search.fs_uuid {UUID} root", "configfile ($root)'/@/boot/grub2'/grub.cfg",
    ]  # fmt: skip


def test_a_menu_that_the_mediums_grub_finds_by_a_link_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boot, "run", lambda _: None)
    lay(tmp_path, "usr/sbin/grub2-mkconfig", "boot/grub2/grub.cfg")
    (tmp_path / "boot/grub").symlink_to("grub2")
    assert install_bios(tmp_path) == ()
    assert (tmp_path / "boot/grub2/grub.cfg").read_text() == "x"


@pytest.mark.adapts("B12", "T1")
def test_no_boot_sector_of_a_grub_that_cannot_read_entries_as_files(tmp_path: Path) -> None:
    lay(tmp_path, "boot/loader/entries/a.conf")
    with pytest.raises(PatchError, match=r"no GRUB for BIOS.*blscfg"):
        install_bios(tmp_path)


@pytest.mark.adapts("B14", "T1")
def test_suse_is_told_of_the_new_disk_and_keeps_its_other_words(tmp_path: Path) -> None:
    lay(tmp_path, "etc/default/grub_installdevice", data=b"/dev/disk/by-id/ata-OLD\nactivate\ngeneric_mbr\n")
    step = InstallBootloader(firmware="bios", disk=IDENTITY, known_as="/dev/disk/by-id/ata-NEW")
    boot.tell_suse(InsideRoot(tmp_path), step, handle(tmp_path))
    said = (tmp_path / "etc/default/grub_installdevice").read_text()
    assert said == "/dev/disk/by-id/ata-NEW\nactivate\ngeneric_mbr\n"


@pytest.mark.adapts("B14", "T1")
def test_grub2_programs_and_places(tmp_path: Path) -> None:
    lay(tmp_path, "usr/sbin/grub2-mkconfig", "usr/sbin/grub2-install", "usr/lib/grub/i386-pc/kernel.img")
    inside, sandbox = InsideRoot(tmp_path), Sandbox()
    assert boot.configuration_path(inside) == "/boot/grub2/grub.cfg"
    boot.make_configuration(inside, sandbox)  # type: ignore[arg-type]
    install_bios(tmp_path, sandbox)
    assert sandbox.ran[0] == ["/usr/sbin/grub2-mkconfig", "-o", "/boot/grub2/grub.cfg"]
    assert sandbox.ran[1][0] == "/usr/sbin/grub2-install" and sandbox.ran[1][-1] == "/dev/sdx"
