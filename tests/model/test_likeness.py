"""Machines with the same software are found by what is installed on them."""

from __future__ import annotations

from agent.model.likeness import ALIKE, likeness, most_alike
from agent.model.profile import Package, Profile


def machine(name: str, *packages: str) -> Profile:
    pairs = (package.split("=") for package in packages)
    installed = tuple(Package(title, "amd64", version) for title, version in pairs)
    return Profile(name, "2026-11-23T20:41:40Z", packages=installed)


def test_versions_count() -> None:
    one = machine("a", "bash=5.2", "nginx=1.22", "vim=9.0")
    assert likeness(one, one) == 1
    assert likeness(one, machine("b", "bash=5.2", "nginx=1.22", "vim=9.1")) == 0.5
    assert likeness(one, machine("c")) == 0 == likeness(machine("c"), machine("d"))


def test_the_most_alike_wins_and_strangers_do_not() -> None:
    one = machine("a", "bash=5.2", "nginx=1.22", "vim=9.0")
    near, far = machine("near", "bash=5.2", "nginx=1.22"), machine("far", "bash=5.2", *(f"x{n}=1" for n in range(9)))
    assert most_alike(one, [far, near]) is near
    assert likeness(one, far) < ALIKE
    assert most_alike(one, [far]) is None is most_alike(one, [])
