"""What makes a machine one of its own: its name, identity, keys and logs. The same name gives the same bytes."""

from __future__ import annotations

import base64
import hashlib
import random
from pathlib import Path

FIRST, SECOND = "bench-one", "bench-two"
LOG_LINES = 40_000


def give_identity(root: Path, hostname: str) -> None:
    """Name, machine-id, host keys and a log of the machine ``hostname``."""
    write(root / "etc/hostname", f"{hostname}\n")
    write(root / "etc/hosts", f"127.0.0.1 localhost\n127.0.1.1 {hostname}\n")
    write(root / "etc/machine-id", hashlib.md5(hostname.encode()).hexdigest() + "\n")
    for kind in ("rsa", "ecdsa", "ed25519"):
        secret = base64.b64encode(random.Random(f"{hostname} {kind}").randbytes(1200)).decode()
        write(root / f"etc/ssh/ssh_host_{kind}_key", f"-----BEGIN KEY OF NOTHING-----\n{secret}\n-----END-----\n")
        write(root / f"etc/ssh/ssh_host_{kind}_key.pub", f"ssh-{kind} {secret[:400]} root@{hostname}\n")
    write(root / "var/log/syslog", log_lines(hostname, LOG_LINES))


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def log_lines(hostname: str, count: int) -> str:
    programs = ("systemd[1]", "kernel", "sshd[812]", "CRON[4711]", "dbus-daemon[402]")
    return "".join(
        f"Nov {number // 3600 % 28 + 1:2} {number // 60 % 24:02}:{number % 60:02}:17 {hostname} "
        f"{programs[number % len(programs)]}: message {hashlib.md5(f'{hostname}{number}'.encode()).hexdigest()}\n"
        for number in range(count)
    )
