"""Dependencies by apt's own solver and by libsolv, before anything is written: what else comes, what cannot."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.depot.rpm_package import read_rpm
from agent.errors import RefusedError
from agent.model.image import Component
from agent.model.profile import Firmware, Kernel, OperatingSystem, Package, Platform
from agent.model.recipe import BoundRecipe, Check, Install, RemovePackage
from agent.model.situation import Situation
from agent.model.tree import MemoryTree
from agent.process import run
from agent.restore import dependencies
from agent.restore.adapt import adapt
from agent.restore.dependencies import resolve
from agent.restore.recipe_folder import read_recipes
from tests import rpms
from tests.model.machines_of_tests import (
    FULL,
    THIN,
    THIN_FILES,
    component,
    metapackage,
    situation,
    source,
    target,
)

pytestmark = pytest.mark.tools

STATUS = "".join(
    f"Package: {name}\nStatus: install ok installed\nArchitecture: {architecture}\nVersion: {version}\n{more}\n"
    for name, architecture, version, more in (
        ("kmod", "amd64", "30", ""), ("linux-base", "all", "4.9", ""), ("initramfs-tools", "all", "0.142", ""),
        ("linux-image-cloud-amd64", "amd64", "6.1.9-1", f"Depends: linux-image-{THIN}\n"),
        (f"linux-image-{THIN}", "amd64", "6.1.9-1", ""), ("old-agent", "all", "1", ""),
    )
)  # fmt: skip


def deb(name: str, version: str = "1", **fields: str) -> Component:
    control = f"Package: {name}\nVersion: {version}\nArchitecture: all\n"
    control += "".join(f"{key.replace('_', '-')}: {value}\n" for key, value in fields.items())
    return component(name, version=version, kind="other", architecture="all", control=control, kernel_release="",
                     modaliases=(), modules=(), depends=tuple(filter(None, [fields.get("Depends", "")])))  # fmt: skip


def recipe(*operations: Any, tier: str = "must", name: str = "site.x") -> BoundRecipe:
    return BoundRecipe(
        id=name, title="x", tier=tier, phase="install", why="", items=(), operations=operations,
        checks=(Check(kind="exists", path="/"),),
    )  # fmt: skip


def case(*components: Component) -> Situation:
    return situation({"/var/lib/dpkg/status": STATUS}, components=components)


# --- apt --------------------------------------------------------------------------------------------------------------


def test_what_a_component_needs_comes_with_it_in_apts_order() -> None:
    around = case(deb("foo", Depends="bar (>= 2), kmod"), deb("bar", "2", Pre_Depends="baz"), deb("baz"), deb("lone"))
    found = resolve(
        [recipe(Install(component="foo", version="1")), recipe(Install(component="bar", version="2"))], around
    )
    assert not found.unmet and not found.notes
    assert found.recipes[0].operations == (
        Install(component="baz", version="1", needed_by="foo"),  # configured before bar is unpacked: Pre-Depends
        Install(component="foo", version="1", together=("bar=2",)),
    )
    assert found.recipes[1].operations == (), "an earlier recipe brought it"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"Depends": "nowhere (>= 3)"}, "Depends: nowhere"),
        ({"Depends": "kmod (>= 99)"}, "kmod"),
        ({"Conflicts": "old-agent"}, "would remove old-agent"),
    ],
)  # fmt: skip
def test_what_cannot_be_installed_is_known_beforehand(fields: dict[str, str], says: str) -> None:
    found = resolve([recipe(Install(component="foo", version="1"))], case(deb("foo", **fields)))
    assert says in found.unmet["foo"]


def test_several_reasons_are_a_sentence() -> None:
    around = case(deb("foo", Depends="bar, nowhere"), deb("bar", Depends="elsewhere (>= 2)"))
    found = resolve([recipe(Install(component="foo", version="1"))], around)
    why = found.unmet["foo"]
    assert why.startswith("apt cannot install it: foo : Depends: ") and "nowhere" in why
    assert not set("[]\n") & set(why)
    unknown = resolve([recipe(Install(component="zoo", version="1"))], case(deb("foo")))
    assert unknown.unmet["zoo"] == "apt cannot install it: Unable to locate package zoo"
    other = resolve([recipe(Install(component="foo", version="9"))], case(deb("foo")))
    assert other.unmet["foo"] == "apt cannot install it: Version '9' for 'foo' was not found"


def test_an_apt_that_cannot_work_is_no_verdict_on_packages() -> None:
    around = situation({"/var/lib/dpkg/status": "Package: a\nVersion\n"}, components=(deb("foo"),))
    with pytest.raises(RefusedError, match=r"apt-get could not work out .*Unable to parse package file") as caught:
        resolve([recipe(Install(component="foo", version="1"))], around)
    assert "[" not in caught.value.message and "list of packages" in caught.value.hint


@pytest.mark.parametrize(
    ("script", "says"),
    [("echo loading: libapt.so.6 is absent >&2; exit 127", "apt-get could not work out .*libapt.so.6 is absent"),
     ("kill -11 $$", "apt-get could not work out .*status -11"),
     ("echo \"E: Can't call external solver 'x'\" >&2; exit 100", "could not work out .*external solver")],
)  # fmt: skip
def test_a_broken_apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, says: str) -> None:
    program = tmp_path / "apt-get"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    real = run
    monkeypatch.setattr(dependencies, "run", lambda argv, **more: real([program, *argv[1:]], **more))
    with pytest.raises(RefusedError, match=says):
        resolve([recipe(Install(component="foo", version="1"))], case(deb("foo")))


def test_what_the_recipe_removes_may_go() -> None:
    operations = (RemovePackage(package="old-agent"), Install(component="foo", version="1"))
    found = resolve([recipe(*operations)], case(deb("foo", Conflicts="old-agent")))
    assert not found.unmet and found.recipes[0].operations == operations


def test_without_the_solver_the_plan_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.restore.dependencies.shutil.which", lambda _: None)
    bound = recipe(Install(component="foo", version="1"))
    found = resolve([bound], case(deb("foo", Depends="nowhere")))
    assert found.recipes == (bound,) and "apt-get is not here" in found.notes[0]


def kernel(version: str, depends: str, **changes: Any) -> Component:
    name = f"linux-image-{FULL}"
    control = f"Package: {name}\nVersion: {version}\nArchitecture: amd64\nDepends: {depends}\n"
    return component(name, version=version, depends=(depends,), control=control, **changes)


@pytest.mark.adapts("D1", "T1")
@pytest.mark.adapts("B3", "T1")
def test_a_kernel_whose_dependencies_come_from_the_depot() -> None:
    """The demo's case, with a kernel that needs more than the image has."""
    around = case(kernel("6.1.9-1", "extra-modules"), deb("extra-modules", "3"), metapackage())
    found = adapt(read_recipes(), around)
    assert found.difference.blockers == ()
    (install,) = (one for one in found.recipes if one.id == "kernel.install-flavour")
    assert next(op for op in install.operations if isinstance(op, Install)).together[:1] == ("extra-modules=3",)


def test_a_kernel_that_cannot_be_installed_blocks_with_the_reason() -> None:
    around = case(kernel("6.1.9-1", "extra-modules"), deb("extra-modules", "3", Conflicts="kmod"))
    found = adapt(read_recipes(), around)
    (blocker,) = found.difference.blockers
    assert any("apt cannot install it" in text or "would remove kmod" in text for _, text in blocker.evidence)
    assert not [one for one in found.recipes if one.id == "kernel.install-flavour"]


# --- rpm --------------------------------------------------------------------------------------------------------------

EL = "5.14.0-427.el9.x86_64"
DATABASE = "/usr/lib/sysimage/rpm/Packages.db"
MEGA = "pci:v00001000d0000005D*"


def rpm_case(tmp_path: Path, *components: Component, extra: tuple[bytes, ...] = ()) -> Situation:
    """A virtual machine of the RHEL family, kernel-core and kernel-modules-core only, on the iron target."""
    installed = rpms.ndb([
        rpms.installed("bash", "5.1.8", "9.el9", files=["/usr/bin/sh"]),
        # As kernel.spec of Fedora and RHEL 9.2 has them: of the same release, or not at all.
        rpms.installed("kernel-core", "5.14.0", "427.el9", requires=[f"kernel-modules-core-uname-r = {EL}"],
                       provides=[f"kernel-uname-r = {EL}", "installonlypkg(kernel)"]),
        rpms.installed("kernel-modules-core", "5.14.0", "427.el9", requires=[f"kernel-uname-r = {EL}"],
                       provides=[f"kernel-modules-core-uname-r = {EL}", "installonlypkg(kernel-module)"]),
        *extra,
    ])  # fmt: skip
    files = {path.replace(THIN, EL): text.replace(THIN, EL) for path, text in THIN_FILES.items()}
    tree = MemoryTree({DATABASE: installed, **{path: text.encode() for path, text in files.items()}})
    el = source(
        os=OperatingSystem(
            id="rocky", version="9.4", package_format="rpm", loader="grub2", initrd_tool="dracut",
            kernels=(Kernel(EL, "", "kernel-core", f"/boot/vmlinuz-{EL}", f"/boot/initramfs-{EL}.img", True),),
        ),
        packages=(Package("kernel-core", "x86_64", "5.14.0-427.el9"),),
    )  # fmt: skip
    iron = target(platform=Platform(firmware=Firmware.UEFI, system_vendor="ACME", cpu_level=2))
    return replace(situation(source=el, target=iron, components=components), tree=tree)


def built(tmp_path: Path, name: str, version: str = "1", **more: Any) -> Component:
    release = more.pop("release", "1")
    return read_rpm(rpms.build(tmp_path, name, version, release, **more))


def test_rpms_need_one_another(tmp_path: Path) -> None:
    alpha = built(tmp_path, "alpha", head="Requires: beta >= 2, /usr/bin/sh\nRequires: (gamma if bash)")
    around = rpm_case(tmp_path, alpha, built(tmp_path, "beta", "2"), built(tmp_path, "gamma"), built(tmp_path, "lone"))
    (done,) = resolve([recipe(Install(component="alpha", version="1-1"))], around).recipes
    (install,) = done.operations
    assert isinstance(install, Install)
    assert {*install.together, f"{install.component}={install.version}"} == {"alpha=1-1", "beta=2-1", "gamma=1-1"}


@pytest.mark.parametrize("epoch", ["", "Epoch: 2\n"])
def test_an_rpm_of_a_version_after_a_release(tmp_path: Path, epoch: str) -> None:
    """‘^’, which no file of a depot has in its name: asked for, and needed by another one."""
    number = f"{'2:' if epoch else ''}1.0"
    late = built(tmp_path, "late", "1.0^20240101git", head=f"{epoch}Provides: snapshot")
    needs = built(tmp_path, "needs", head=f"Requires: late = {number}^20240101git-1")
    assert late.version == f"{number}~20240101git-1"
    around = rpm_case(tmp_path, late, needs)
    asked = [recipe(Install(component="late", version=late.version)), recipe(Install(component="needs", version="1-1"))]
    found = resolve(asked, around)
    assert not found.unmet and [one.operations for one in found.recipes] == [one.operations for one in asked]
    (alone,) = resolve(asked[1:], around).recipes
    assert alone.operations == (Install(component="needs", version="1-1", together=(f"late={late.version}",)),)


def test_what_is_no_component_is_not_left_out_in_silence(tmp_path: Path) -> None:
    renamed = replace(built(tmp_path, "beta"), id="gamma")
    around = rpm_case(tmp_path, built(tmp_path, "alpha", head="Requires: beta"), renamed)
    with pytest.raises(RefusedError, match=r"testsolv could not work out .*install beta-1-1.noarch, which is no comp"):
        resolve([recipe(Install(component="alpha", version="1-1"))], around)


@pytest.mark.parametrize(
    ("head", "says"),
    [("Requires: nowhere", "nothing provides nowhere needed by alpha"),
     ("Requires: /no/such", "nothing provides /no/such"),
     ("Conflicts: bash", "conflicts with bash"), ("Obsoletes: bash", "would remove bash")],
)  # fmt: skip
def test_an_rpm_that_cannot_be_installed(tmp_path: Path, head: str, says: str) -> None:
    found = resolve([recipe(Install(component="alpha", version="1-1"))],
                    rpm_case(tmp_path, built(tmp_path, "alpha", head=head)))  # fmt: skip
    assert says in found.unmet["alpha"]


def test_a_libsolv_that_cannot_work_is_no_verdict_on_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """testsolv ends with 0 where it cannot read what it was given, and then installs nothing."""
    around = rpm_case(tmp_path, built(tmp_path, "alpha"))
    asked = [recipe(Install(component="alpha", version="1-1"))]
    convert = dependencies._Libsolv._convert
    with monkeypatch.context() as patched, pytest.raises(RefusedError, match=r"rpmmd2solv could not work out .*"):
        patched.setattr(dependencies._Libsolv, "_convert", lambda self, text, solv: convert(self, text[:-20], solv))
        resolve(asked, around)
    monkeypatch.setattr(dependencies._Libsolv, "_convert", lambda self, text, solv: solv.write_bytes(b"x" * 100))
    with pytest.raises(RefusedError, match=r"testsolv could not work out .*not a SOLV file"):
        resolve(asked, around)


def modules(tmp_path: Path, name: str, head: str = "", version: str = "5.14.0", release: str = "427.el9",
            drives: tuple[str, ...] = (MEGA,)) -> Component:  # fmt: skip
    made = built(tmp_path, name, version, release=release, architecture="x86_64", head=head)
    aliases = tuple(f"{pattern} mod{number}" for number, pattern in enumerate(drives))
    return replace(made, kind="driver", kernel_release=f"{version}-{release}.x86_64", modaliases=aliases,
                   modules=tuple(line.rpartition(" ")[2] for line in aliases))  # fmt: skip


E1000E = "pci:v00008086d000010D3*"


@pytest.mark.adapts("B3", "T1")
@pytest.mark.adapts("D1", "T1")
def test_kernel_core_gets_the_rest_of_its_modules(tmp_path: Path) -> None:
    """RHEL: kernel-core + kernel-modules-core → kernel-modules of the same release, not of another."""
    own = modules(tmp_path, "kernel-modules", "Requires: kernel-modules-core = 5.14.0-427.el9", drives=(E1000E,))
    newer = modules(tmp_path, "kernel-modules", version="5.14.0", release="503.el9", drives=(E1000E,))
    found = adapt(read_recipes(), rpm_case(tmp_path, own, newer))
    assert found.difference.blockers == (), found.difference.blockers
    (item,) = (one for one in found.difference.items if one.kind == "driver-package")
    assert item.target == "kernel-modules=5.14.0-427.el9" and EL in item.reason
    (install,) = (one for one in found.recipes if one.id == "kernel.install-drivers")
    assert install.operations[0] == Install(component="kernel-modules", version="5.14.0-427.el9")


@pytest.mark.adapts("D1", "T1")
def test_one_driver_wins_the_one_for_this_model_first(tmp_path: Path) -> None:
    plain = modules(tmp_path, "a-driver", drives=(E1000E,))
    made = replace(modules(tmp_path, "z-driver", drives=(E1000E,)), models=(("ACM*", "*"),))
    other = replace(modules(tmp_path, "b-driver", drives=(E1000E,)), models=(("Dell*", "*"),))

    def chosen(*components: Component) -> tuple[str, str]:
        difference = adapt(read_recipes(), rpm_case(tmp_path, *components)).difference
        (item,) = (one for one in difference.items if one.kind == "driver-package")
        return item.key, item.reason

    assert chosen(plain, other)[0] == "a-driver"
    assert chosen(plain, made, other)[0] == "z-driver" and "made for this model" in chosen(plain, made)[1]


@pytest.mark.adapts("D3", "T1")
def test_a_newer_kernel_with_its_modules(tmp_path: Path) -> None:
    """Where nothing for the image's own kernel drives the device: kernel-core of a newer release, and what it needs.

    Beside the image's own, whose parts need one another: kernel-modules-core stays, too.
    """
    newer = "5.14.0-503.el9.x86_64"
    core = built(tmp_path, "kernel-core", "5.14.0", release="503.el9", architecture="x86_64",
                 head=f"Requires: kernel-modules-core-uname-r = {newer}\nProvides: kernel-uname-r = {newer}\n"
                 "Provides: installonlypkg(kernel)")  # fmt: skip
    core = replace(core, kind="kernel", kernel_release=newer, builtin=("nvme", "ext4"))
    needed = modules(tmp_path, "kernel-modules-core",
                     f"Requires: kernel-uname-r = {newer}\nProvides: kernel-modules-core-uname-r = {newer}\n"
                     "Provides: installonlypkg(kernel-module)", release="503.el9", drives=())  # fmt: skip
    full = modules(tmp_path, "kernel-modules", release="503.el9", drives=(E1000E,))
    found = adapt(read_recipes(), rpm_case(tmp_path, core, needed, full))
    assert found.difference.blockers == (), found.difference.blockers
    installed = {name for one in found.recipes for op in one.operations if isinstance(op, Install)
                 for name in (*op.together, f"{op.component}={op.version}")}  # fmt: skip
    assert installed == {f"{n}=5.14.0-503.el9" for n in ("kernel-core", "kernel-modules-core", "kernel-modules")}
