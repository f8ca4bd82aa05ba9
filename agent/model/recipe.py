"""A recipe: when the difference says so, do this, and check that. Format of record: docs/recipes.md, recipes/README.md.

These are the values; reading TOML and evaluating conditions is in `recipe_file` and `recipe_match`, both pure.
An operation in a plan is concrete: placeholders are filled in, nothing is decided while a machine is changed.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Phase(StrEnum):
    """Fixed order in which recipes run."""

    REMOVE = "remove"
    INSTALL = "install"
    STORAGE = "storage"
    NETWORK = "network"
    DISPLAY = "display"
    SERVICES = "services"
    IDENTITY = "identity"
    MODULES = "modules"
    INITRAMFS = "initramfs"
    LOADER = "loader"
    SECURITY = "security"
    SITE = "site"


PHASES = tuple(Phase)


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One verb. ``missing_ok`` where the thing acted on may be absent."""


class Write(Operation, tag="write", frozen=True, kw_only=True):
    """Add ``lines`` to the end of a text file (made when absent) where they are not there yet; or replace it whole."""

    path: str
    lines: tuple[str, ...]
    whole: bool = False
    mode: int = 0o644


class SetValue(Operation, tag="set", frozen=True, kw_only=True):
    path: str
    format: str  # ini, keyfile, shell
    section: str = ""
    key: str
    value: str


class DropFrom(Operation, tag="drop-from", frozen=True, kw_only=True):
    """Remove words equal to ``word`` (glob) from a value, e.g. a kernel command line.

    The file's place tells its form: KEY="a b" of a shell (key "" is a file of words only), ``key a b`` of boot entries
    (/loader/entries/), KEY=a b in GRUB's block of 1024 bytes (grubenv).
    """

    path: str
    key: str
    word: str


class AddTo(Operation, tag="add-to", frozen=True, kw_only=True):
    """Add a word to the end of a value where it is not there yet; forms as for DropFrom."""

    path: str
    key: str
    word: str


class EditMounts(Operation, tag="mounts", frozen=True, kw_only=True):
    """Change the entries of an fstab-like table that name ``device`` (and ``mountpoint``, when one is given).

    ``action``: set-device (``value`` is the new one), add-options (``value`` is comma-separated), comment-out
    (``value`` is the reason), add (``value`` is the whole line; nothing happens where the mount point is taken).
    """

    path: str = "/etc/fstab"
    action: str
    device: str
    mountpoint: str = ""
    value: str


class EditNetwork(Operation, tag="network", frozen=True, kw_only=True):
    """Change a file that configures interfaces, by its backend (`network_edits`).

    ``action``: rebind (``name`` is the MAC address, slot or driver that the file is bound to, ``value`` the new one),
    rename (an interface's old and new name), not-awaited (``name`` is an interface that has no card).
    """

    action: str
    path: str
    name: str
    value: str = ""


class Move(Operation, tag="move", frozen=True, kw_only=True):
    """Give the file ``path`` the name ``to``; or files their own names with ``old`` replaced by ``new``.

    In the second form ``path`` is a glob. Nothing happens to a file whose new name another file has.
    """

    path: str
    to: str = ""
    old: str = ""
    new: str = ""

    def target_of(self, path: str) -> str:
        """The new path of one of the files; in the second form it stays in its folder."""
        folder, _, name = path.rpartition("/")
        return self.to or f"{folder}/{name.replace(self.old, self.new.replace('/', '_'))}"


class Rename(Move, tag="rename", frozen=True, kw_only=True):
    """What plans made before `Move` did both call its second form."""


class Replace(Operation, tag="replace", frozen=True, kw_only=True):
    """Replace matches of a regular expression (Python re, multi-line) in a text file.

    With ``before_lines`` the text goes before each line of a match, which stays: so a value of several lines is
    commented out.
    """

    path: str
    pattern: str
    text: str
    before_lines: bool = False


class MoveAside(Operation, tag="move-aside", frozen=True, kw_only=True):
    """Move files that match the glob into the undo folder; secrets that must not stay are not kept there."""

    path: str
    keep: bool = True


class Truncate(Operation, tag="truncate", frozen=True, kw_only=True):
    path: str


class Install(Operation, tag="install", frozen=True, kw_only=True):
    """Install a component with the image's own package tool in the sandbox."""

    component: str
    version: str
    together: tuple[str, ...] = ()  # ID=VERSION: components that are installed in the same run, before it
    needed_by: str = ""  # what asked for it, where it was no recipe


class RemovePackage(Operation, tag="remove", frozen=True, kw_only=True):
    """Remove a package, and ``others`` in the same go: they may depend on each other."""

    package: str
    on_failure: str = "stop"  # stop, warn
    others: tuple[str, ...] = ()

    @property
    def packages(self) -> tuple[str, ...]:
        return (self.package, *self.others)


class EnableUnit(Operation, tag="enable", frozen=True, kw_only=True):
    """Start a unit with ``target``, as ``systemctl enable`` would: a link in its .wants directory."""

    unit: str
    target: str = "multi-user.target"


class DisableUnit(Operation, tag="disable", frozen=True, kw_only=True):
    unit: str


class MaskUnit(Operation, tag="mask", frozen=True, kw_only=True):
    unit: str


class Request(Operation, tag="request", frozen=True, kw_only=True):
    """Ask for something that runs once, after all recipes: initramfs, bootloader, relabel."""

    what: str
    modules: tuple[str, ...] = ()  # for initramfs: modules it must contain


class RunCommand(Operation, tag="run", frozen=True, kw_only=True):
    """Run a program of the image in the sandbox."""

    argv: tuple[str, ...]
    why: str
    on_failure: str = ""  # stop (which "" is, too), warn


AnyOperation = (
    Write | SetValue | DropFrom | AddTo | EditMounts | EditNetwork | Move | Replace | MoveAside | Rename | Truncate
    | Install | RemovePackage | EnableUnit | DisableUnit | MaskUnit | Request | RunCommand
)  # fmt: skip


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """What must hold after the recipe ran. ``kind``: grep, no-grep, no-match, exists, absent, empty, unit-on, unit-off,
    initrd-has, kernel-installed, package-installed, package-absent, requested.

    ``path`` is a file, ``text`` a literal text (grep), a pattern (no-match), unit, module or package, ``release`` a
    kernel.
    """

    kind: str
    path: str = ""
    text: str = ""
    release: str = ""


class BoundRecipe(msgspec.Struct, frozen=True, kw_only=True):
    """A recipe that applies to this restore, its placeholders filled in."""

    id: str
    title: str
    tier: str
    phase: str
    why: str
    items: tuple[str, ...]  # ids of the difference items it handles
    operations: tuple[AnyOperation, ...]
    checks: tuple[Check, ...]
    origin: str = "shipped"  # shipped, depot (its bundle), site (a folder that was named)
