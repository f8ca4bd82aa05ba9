"""The medium boots: from CD by BIOS, from a USB stick by UEFI, and what the agent needs is there and works.

The frozen program is selftest_entry.py, in the agent's place and started by the PE exactly as the agent is.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pexpect
import pytest

from agent.process import run
from pe_build.customize import customize
from tests.lab.machine import PROCESSOR
from tests.lab.programs import PATIENCE

Media = Callable[[Path, Path], list[str]]
LIMIT_S = 400.0 * PATIENCE
FIRMWARE = Path("/usr/share/OVMF")


@pytest.fixture(scope="module")
def medium(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pe")
    entry = Path(__file__).with_name("selftest_entry.py")
    run([sys.executable, "-m", "pe_build", "iso", "--agent-entry", entry, "--output", folder / "pe.iso"],
        timeout_s=1500, cwd=Path(__file__).parent.parent.parent)  # fmt: skip
    config = folder / "agent.toml"
    config.write_text('depot = "http://10.77.0.2:1234"\n')
    customize(folder / "pe.iso", config, folder / "customized.iso")
    return folder / "customized.iso"


def bios_cd(medium: Path, _: Path) -> list[str]:
    return [
        "-drive",
        f"if=none,id=medium,media=cdrom,readonly=on,format=raw,file={medium}",
        "-device",
        "ide-cd,drive=medium",
    ]


def uefi_usb(medium: Path, folder: Path) -> list[str]:
    shutil.copyfile(FIRMWARE / "OVMF_VARS_4M.fd", folder / "vars.fd")
    return [
        *("-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={FIRMWARE / 'OVMF_CODE_4M.fd'}"),
        *("-drive", f"if=pflash,unit=1,format=raw,file={folder / 'vars.fd'}"),
        *("-drive", f"if=none,id=medium,format=raw,readonly=on,file={medium}"),
        *("-device", "qemu-xhci", "-device", "usb-storage,drive=medium,bootindex=0"),
    ]


@pytest.mark.machine
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("firmware", "media"), [("bios", bios_cd), ("uefi", uefi_usb)])
def test_the_medium_boots_with_what_the_agent_needs(medium: Path, tmp_path: Path, firmware: str, media: Media) -> None:
    disk = tmp_path / "disk"
    with disk.open("wb") as blank:
        blank.truncate(1 << 30)
    arguments = [
        *("-accel", "tcg,thread=multi", "-cpu", PROCESSOR, "-m", "1024", "-machine", "q35"),
        *("-nographic", "-no-reboot", "-netdev", "user,id=net,net=10.77.0.0/24", "-device", "e1000e,netdev=net"),
        *("-drive", f"if=none,id=disk,format=raw,file={disk}", "-device", "nvme,drive=disk,serial=REGRAFT1"),
        *media(medium, tmp_path),
    ]
    console = pexpect.spawn("qemu-system-x86_64", arguments, timeout=LIMIT_S, encoding="utf-8", codec_errors="replace")
    log = tmp_path / "serial.log"
    with log.open("w") as console.logfile_read:
        try:
            ended = console.expect(["SELFTEST ok", "agent-ended", pexpect.EOF])
            assert ended == 0, log.read_text()[-3000:]
            console.expect(pexpect.EOF)
        finally:
            console.close(force=True)
    said = log.read_text()
    assert f"SELFTEST firmware {firmware}" in said
    assert "nvme0n1" in said
    assert "depot='http://10.77.0.2:1234'" in said
