"""A virtual machine that runs: its serial console, its power switch, its end."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.lab.machine import Machine, empty_nvram, qemu_words
from tests.lab.programs import PATIENCE, LabError, end_group, start

# Emulated machines are slow, and so are loaded build servers: no wait of the lab is longer than this.
LIFETIME_S = 3600.0 * PATIENCE


class Console:
    """A serial console: every byte goes to a file; text that was seen can be awaited.

    A thread reads all the time: a guest whose serial line is not read stops at its next line.
    """

    def __init__(self, line: socket.socket, log: Path) -> None:
        self.line = line
        self.log = log
        self.seen = ""
        self.mark = 0  # what is before it was matched already
        self.ended = False
        self.changed = threading.Condition()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        with self.log.open("ab", buffering=0) as log:
            while True:
                try:
                    data = self.line.recv(65536)
                except OSError:
                    data = b""
                if data:
                    log.write(data)
                with self.changed:
                    self.seen += data.decode(errors="replace")
                    self.ended = not data
                    self.changed.notify_all()
                if not data:
                    return

    def expect(self, *patterns: str, timeout_s: float) -> re.Match[str]:
        """Wait until one of the regular expressions appears behind the last match."""
        timeout_s *= PATIENCE
        compiled = [re.compile(pattern, re.MULTILINE) for pattern in patterns]
        deadline = time.monotonic() + timeout_s
        with self.changed:
            while True:
                for pattern in compiled:
                    if found := pattern.search(self.seen, self.mark):
                        self.mark = found.end()
                        return found
                left = deadline - time.monotonic()
                if self.ended or left <= 0:
                    why = "the machine ended" if self.ended else f"{timeout_s:.0f} s passed"
                    raise LabError(f"{why}, and {' or '.join(map(repr, patterns))} was not seen; {self.tail()}")
                self.changed.wait(min(left, 5.0))

    def send(self, text: str) -> None:
        self.line.sendall(text.encode())

    def tail(self, lines: int = 25) -> str:
        last = "\n".join(plain_text(self.seen).splitlines()[-lines:])
        return f"the last lines of {self.log}:\n{last}"

    def close(self) -> None:
        with suppress(OSError):
            self.line.shutdown(socket.SHUT_RDWR)
        self.reader.join(10)
        self.line.close()


def plain_text(text: str) -> str:
    """Without terminal control sequences."""
    return re.sub(r"\x1b(\[[0-9;?=]*[A-Za-z]|[()][A-Z0-9]|[=>])|\r|\x00", "", text)


@dataclass
class RunningMachine:
    """``with RunningMachine(machine, directory) as vm: vm.console.expect(...)``.

    ``directory`` holds the blank disks (diskN-BUS.img), the UEFI variables (nvram.fd, kept when there already) and
    the logs (``LABEL-serial.log``, ``LABEL-qemu.log``).
    """

    machine: Machine
    directory: Path
    label: str = "boot"
    lifetime_s: float = LIFETIME_S
    console: Console = field(init=False)
    process: subprocess.Popen[bytes] = field(init=False)
    started: float = field(init=False)

    def __enter__(self) -> Self:
        self.directory.mkdir(parents=True, exist_ok=True)
        # Paths of Unix sockets have at most 107 bytes.
        self._sockets = Path(tempfile.mkdtemp(prefix="lab"))
        nvram = self.directory / "nvram.fd"
        if self.machine.firmware != "bios" and not nvram.exists():
            shutil.copyfile(empty_nvram(self.machine.firmware), nvram)
        paths = make_disks(self.machine, self.directory)
        serial, self._qmp = self._sockets / "serial", self._sockets / "qmp"
        self._qemu_log = (self.directory / f"{self.label}-qemu.log").open("wb")
        log = self.directory / f"{self.label}-serial.log"
        log.unlink(missing_ok=True)
        self.started = time.monotonic()
        self.process = start(qemu_words(self.machine, paths, nvram, serial, self._qmp), output=self._qemu_log)
        try:
            self.console = Console(self._connect(serial), log)
            self._wait_for_devices()
        except BaseException:
            self._end()
            raise
        self._watch = threading.Timer(self.lifetime_s, end_group, [self.process])
        self._watch.daemon = True
        self._watch.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and self.process.poll() is None:
            with suppress(OSError, LabError, ValueError):
                self.screendump(self.directory / f"{self.label}-screen.ppm")
        self._watch.cancel()
        self._end()
        self.console.close()

    def _end(self) -> None:
        end_group(self.process)
        self._qemu_log.close()
        shutil.rmtree(self._sockets, ignore_errors=True)

    def _connect(self, path: Path) -> socket.socket:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and self.process.poll() is None:
            line = socket.socket(socket.AF_UNIX)
            try:
                line.connect(str(path))
            except (FileNotFoundError, ConnectionRefusedError):
                line.close()
                time.sleep(0.05)
            else:
                return line
        raise self._not_started()

    def _wait_for_devices(self) -> None:
        """QEMU takes the serial connection before it looks at its devices: it may still refuse one."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                self.qmp("query-status")
            except (OSError, ValueError):  # not there yet, or gone in the middle of its answer
                time.sleep(0.05)
            else:
                return
        raise self._not_started()

    def _not_started(self) -> LabError:
        self._qemu_log.flush()
        said = Path(self._qemu_log.name).read_text(errors="replace")
        return LabError(f"QEMU did not start ‘{self.machine.name}’: {said.strip() or 'it said nothing'}")

    def seconds(self) -> float:
        """Since power-on."""
        return time.monotonic() - self.started

    def wait_end(self, timeout_s: float) -> float:
        """Wait until the machine powers itself off; returns its seconds since power-on."""
        timeout_s *= PATIENCE
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise LabError(
                f"‘{self.machine.name}’ did not power off within {timeout_s:.0f} s; {self.console.tail()}"
            ) from None
        return self.seconds()

    def qmp(self, command: str, **arguments: Any) -> Any:
        """One command to QEMU itself."""
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(20)
            line.connect(str(self._qmp))
            reader = line.makefile("r")
            reader.readline()
            for word, values in (("qmp_capabilities", {}), (command, arguments)):
                line.sendall(json.dumps({"execute": word, "arguments": values}).encode() + b"\n")
                answer = json.loads(reader.readline())
                while "event" in answer:
                    answer = json.loads(reader.readline())
                if "error" in answer:
                    raise LabError(f"QEMU refused {word}: {answer['error']}")
            return answer.get("return")

    def power_button(self) -> None:
        self.qmp("system_powerdown")

    def screendump(self, path: Path) -> None:
        self.qmp("screendump", filename=str(path))

    # --- a person at the serial console -------------------------------------------------------------------------------

    def login(self, user: str, password: str, timeout_s: float = 240) -> None:
        self.console.expect(r"login: ?$", timeout_s=timeout_s)
        self.console.send(user + "\n")
        self.console.expect(r"Password: ?$", timeout_s=60)
        self.console.send(password + "\n")
        self.console.expect(r"[#$] ?$", timeout_s=90)

    def command(self, words: str, timeout_s: float = 60) -> tuple[int, str]:
        """Type a command at the prompt; its status and what it printed."""
        # The marks are assembled by the shell, so that the echo of what was typed never looks like an answer.
        self.console.send(f"printf 'lab-%s\\n' begins; {words}; printf 'lab-%s-%d\\n' ends $?\n")
        self.console.expect(r"lab-begins\r?\n", timeout_s=timeout_s)
        begin = self.console.mark
        found = self.console.expect(r"lab-ends-(\d+)", timeout_s=timeout_s)
        return int(found[1]), plain_text(self.console.seen[begin : found.start()])


def make_disks(machine: Machine, directory: Path) -> tuple[Path, ...]:
    """The files behind the disks; a blank one is made sparse the first time."""
    paths = []
    for number, disk in enumerate(machine.disks):
        path = disk.path or directory / f"disk{number}-{disk.bus}.img"
        if not path.exists():
            if not disk.size_bytes:
                raise LabError(f"there is no disk image {path}")
            with path.open("wb") as image:
                image.truncate(disk.size_bytes)
        paths.append(path)
    return tuple(paths)
