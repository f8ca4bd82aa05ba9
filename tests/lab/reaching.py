"""As far as the login prompt: past the passphrase of an encrypted disk, where one is asked for."""

from __future__ import annotations

from tests.lab.running import RunningMachine

ASKS = r"(?:Please unlock disk|Enter passphrase for|passphrase for disk)[^\n]*: ?"


def reach_login(vm: RunningMachine, passphrase: str, timeout_s: float) -> float:
    """Seconds since power-on."""
    if passphrase:
        vm.console.expect(ASKS, timeout_s=timeout_s)
        vm.console.send(passphrase + "\n")
    vm.console.expect(r"login: ", timeout_s=timeout_s)
    return vm.seconds()
