"""Installing a source: a system with all packages starts from a scratch disk and copies itself onto the real ones.

The host's kernel may lack the device mapper, md and FAT; the guest's has them. Built once, cached by everything it is
made of:

    disk0.img …, nvram.fd, key, facts.json, packages/*.deb (what was installed, for later upgrades)
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click

from tests.lab.locks import locked
from tests.lab.machine import DirectBoot, Disk, Machine
from tests.lab.matrix.systems import COMMON, SYSTEMS, System
from tests.lab.programs import LabError, remove_built, run
from tests.lab.proof import Facts, facts_of, forwarded
from tests.lab.reaching import reach_login
from tests.lab.running import RunningMachine
from tests.lab.source import CACHE, MASKED, PAGE, PASSWORD, debian_sources, write
from tests.lab.ssh import Ssh

SCRATCH_UUID = "6f1d3c52-2b70-4a52-9f0b-1a50c4b0bfff"
SCRATCH_BYTES = 4 << 30
HOSTNAME = "matrix-source"
INSTALL_PATIENCE_S = 1800.0
MIRROR = re.compile(r"^[^#\n]*?(https?://\S*debian/?)(?:\s|$)", re.MULTILINE)

GRUB_DEFAULT = """\
GRUB_DEFAULT=0
GRUB_TIMEOUT=1
GRUB_DISTRIBUTOR=Debian
GRUB_CMDLINE_LINUX_DEFAULT=""
GRUB_CMDLINE_LINUX="console=tty0 console=ttyS0,115200n8"
GRUB_TERMINAL="console serial"
GRUB_SERIAL_COMMAND="serial --speed=115200"
GRUB_DISABLE_OS_PROBER=true
"""

INSTALL = """\
#!/bin/sh
set -eux
disk() { for link in /dev/disk/by-id/*"$1"; do readlink -f "$link"; return; done; }
part() { case $1 in *[0-9]) echo "$1p$2";; *) echo "$1$2";; esac; }
D0=$(disk MATRIXSOURCE0)
D1=$(disk MATRIXSOURCE1)
mkdir -p /target
@disks@
cp -ax /. /target
rm -rf /target/target /target/install /target/install.sh
cp -r /install/files/. /target/
chmod 600 /target/etc/NetworkManager/system-connections/* /target/etc/netplan/* 2>/dev/null || true
for place in dev proc sys run; do mount --rbind /$place /target/$place; done
cat > /target/inside.sh <<'END'
set -eux
@tune@
if [ -d /sys/firmware/efi ]; then
    grub-install --target=x86_64-efi --efi-directory=/boot/efi --bootloader-id=debian
else
    grub-install $D0
    echo "grub-pc grub-pc/install_devices multiselect $D0" | debconf-set-selections
fi
update-grub
END
D0=$D0 chroot /target sh /inside.sh
rm /target/inside.sh
rm -f /target/etc/ssh/ssh_host_*
chroot /target ssh-keygen -A
sync
echo installed
"""


@dataclass(frozen=True, slots=True)
class Installed:
    """A source that is ready: never run it from these files, they are shared."""

    system: System
    home: Path

    @property
    def key(self) -> Path:
        return self.home / "key"

    @property
    def disks(self) -> tuple[Path, ...]:
        return tuple(self.home / f"disk{number}.img" for number in range(len(self.system.machine.disks)))

    @property
    def packages(self) -> Path:
        return self.home / "packages"

    @property
    def facts(self) -> Facts:
        return Facts(**json.loads((self.home / "facts.json").read_text()))

    def machine(self) -> Machine:
        """The source's own hardware with its disks; what is written to them is forgotten."""
        return with_files(self.system.machine, self.disks, discard_writes=True)


def with_files(machine: Machine, files: tuple[Path, ...], *, discard_writes: bool) -> Machine:
    disks = tuple(
        replace(disk, path=path, discard_writes=discard_writes) for disk, path in zip(machine.disks, files, strict=True)
    )
    return replace(machine, disks=disks)


def installed(name: str) -> Installed:
    """The source of that name; made when absent (about ten minutes)."""
    system = SYSTEMS[name]
    home = CACHE / f"{name}-{key_of(system)}"
    with locked(CACHE / f"{name}.lock"):
        if not (home / "facts.json").exists():
            remove_built(home)
            home.mkdir(parents=True)
            install(system, home)
    return Installed(system, home)


def key_of(system: System) -> str:
    made_of = json.dumps([asdict(system), COMMON, INSTALL, GRUB_DEFAULT, PAGE], default=str, sort_keys=True)
    return hashlib.sha256(made_of.encode()).hexdigest()[:16]


def install(system: System, home: Path) -> None:
    if os.geteuid() != 0:
        raise LabError(f"building a source needs root (mmdebstrap), found uid {os.geteuid()}")
    click.echo(f"    installing {system.title}")
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "regraft-lab", "-f", home / "key"])
    tree = home / "tree"
    unpack_packages(system, tree, home)
    configure(system, tree, (home / "key.pub").read_text())
    direct = direct_boot(tree, home)
    scratch = home / "scratch.img"
    run(
        ["mke2fs", "-q", "-t", "ext4", "-U", SCRATCH_UUID, "-d", tree, scratch, f"{SCRATCH_BYTES >> 10}k"],
        timeout_s=600,
    )
    remove_built(tree)
    for disk, path in zip(system.machine.disks, Installed(system, home).disks, strict=True):
        with path.open("wb") as image:
            image.truncate(disk.size_bytes)
    copy_itself(system, home, scratch, direct)
    facts = first_boot(system, home)
    for path in (scratch, direct.kernel, direct.initrd):
        path.unlink()
    (home / "facts.json").write_text(json.dumps(asdict(facts), indent=1))


def unpack_packages(system: System, tree: Path, home: Path) -> None:
    """Debian's packages; the files stay, for the day on which they are installed again."""
    words: list[str | Path] = [
        # In a mount namespace of its own: whatever ends it, its mounts of the host end with it.
        "unshare", "--mount", "--propagation=private", "mmdebstrap", "--mode=root", "--variant=minbase",
        "--skip=cleanup/apt",
        '--aptopt=APT::Keep-Downloaded-Packages "true"', '--aptopt=Acquire::Check-Valid-Until "false"',
        f"--include={','.join((*COMMON, *system.packages))}", system.release, tree, debian_mirror(),
    ]  # fmt: skip
    result = run(words, timeout_s=1800)
    (home / "mmdebstrap.log").write_text(result.stdout + result.stderr)
    packages = home / "packages"
    packages.mkdir()
    for package in sorted((tree / "var/cache/apt/archives").glob("*.deb")):
        shutil.move(package, packages / package.name)
    shutil.rmtree(tree / "var/lib/apt/lists")


def debian_mirror() -> str:
    """The host's mirror alone: it has every release, the host's other sources are for its own."""
    for path in map(Path, debian_sources()):
        found = MIRROR.search(path.read_text()) if path.is_file() else None
        if found:
            return found[1]
    return "http://deb.debian.org/debian"


def configure(system: System, tree: Path, public_key: str) -> None:
    """What does not depend on the hardware; the rest is below /install, for the machine itself to put in place."""
    write(tree / "etc/hostname", HOSTNAME + "\n")
    write(tree / "etc/hosts", f"127.0.0.1 localhost\n127.0.1.1 {HOSTNAME}\n::1 localhost ip6-localhost\n")
    write(tree / "etc/default/grub", GRUB_DEFAULT)
    write(tree / "etc/initramfs-tools/conf.d/resume", "RESUME=none\n")
    write(tree / "root/.ssh/authorized_keys", public_key, 0o600)
    (tree / "root/.ssh").chmod(0o700)
    write(tree / "srv/www/index.html", PAGE)
    write(
        tree / "etc/nginx/sites-available/default", "server {\n    listen 80 default_server;\n    root /srv/www;\n}\n"
    )
    files = tree / "install/files"
    write(files / "etc/fstab", "# <file system> <mount point> <type> <options> <dump> <pass>\n" + system.fstab)
    for path, text in system.files:
        write(files / path.lstrip("/"), text)
    script = INSTALL.replace("@disks@", system.disks).replace("@tune@", system.tune)
    write(tree / "install.sh", script, 0o755)
    run(["chroot", tree, "chpasswd"], stdin=f"root:{PASSWORD}\n".encode())
    run(["chroot", tree, "systemctl", "mask", *MASKED])


def direct_boot(tree: Path, home: Path) -> DirectBoot:
    found = {}
    for name in ("vmlinuz", "initrd.img"):
        (place,) = (tree / "boot").glob(f"{name}-*")
        found[name] = home / name
        shutil.copyfile(place, found[name])
    append = f"root=UUID={SCRATCH_UUID} rw console=tty0 console=ttyS0,115200n8"
    return DirectBoot(found["vmlinuz"], found["initrd.img"], append)


def copy_itself(system: System, home: Path, scratch: Path, direct: DirectBoot) -> None:
    machine = with_files(system.machine, Installed(system, home).disks, discard_writes=False)
    # The last one, on the board's own AHCI: a further device of PCI would give the card another name.
    disks = (*machine.disks, Disk("ahci", path=scratch, serial="SCRATCH"))
    with RunningMachine(replace(machine, disks=disks, direct=direct), home, "install") as vm:
        vm.login("root", PASSWORD)
        command(vm, "dmesg --console-off")
        for place, nic in enumerate(machine.nics):
            # No word of the files is a placeholder by chance: NIC and NIC2 stand alone.
            holder = f"\\bNIC{place + 1 if place else ''}\\b"
            name = f"$(basename $(dirname $(grep -l {nic.mac} /sys/class/net/*/address)))"
            command(vm, f'grep -rl "{holder}" /install/files | xargs sed -i "s/{holder}/{name}/g"')
        command(vm, "sh /install.sh > /install.log 2>&1 || { tail -n 30 /install.log; false; }", INSTALL_PATIENCE_S)
        vm.console.send("poweroff\n")
        vm.wait_end(180)


def command(vm: RunningMachine, words: str, timeout_s: float = 180) -> None:
    status, said = vm.command(words, timeout_s=timeout_s)
    if status:
        raise LabError(f"in the machine that is being installed, ‘{words}’ ended with status {status}:\n{said}")


def first_boot(system: System, home: Path) -> Facts:
    """By its own loader, from its own disks: what it says of itself is what every restored one must say."""
    machine = with_files(system.machine, Installed(system, home).disks, discard_writes=False)
    machine, ssh_port, _ = forwarded(machine)
    with RunningMachine(machine, home, "first-boot") as vm:
        reach_login(vm, system.typed, 600)
        ssh = Ssh(ssh_port, home / "key")
        ssh.wait(300)
        if system.finish:
            encoded = base64.b64encode(system.finish.encode()).decode()
            ssh.run(f"echo {encoded} | base64 -d | sh -eux", timeout_s=INSTALL_PATIENCE_S)
        facts = facts_of(ssh)
        if facts.state != "running":
            raise LabError(f"{system.name} is {facts.state} after its installation: {facts.failed}")
        vm.power_button()
        vm.wait_end(180)
    return facts
