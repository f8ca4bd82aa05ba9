"""The commands. Each lives in a module of agent.commands, imported only when it is used."""

from __future__ import annotations

import gc
import importlib
from keyword import iskeyword
from types import ModuleType

import click

from agent.version import VERSION

# name → (module, one line of help); the line is repeated here so that --help imports nothing.
COMMANDS = {
    "profile": ("agent.commands.profile", "Describe this machine, or the system below a directory, as XML."),
    "capture": ("agent.commands.capture", "Capture this machine, or a directory, as an image in a depot."),
    "import": ("agent.commands.importing", "Make an image of a disk image, a tar archive or a Clonezilla image."),
    "images": ("agent.commands.images", "List the images of a depot."),
    "show": ("agent.commands.images", "Show one image: volumes, sizes, layout, what did not travel."),
    "diff": ("agent.commands.plan", "Show how a target differs from the machine an image was made of."),
    "plan": ("agent.commands.plan", "Show every step of a restore; writes nothing."),
    "rehearse": ("agent.commands.rehearse", "Rehearse a restore on a throw-away copy; touches no disk."),
    "restore": ("agent.commands.restore", "Restore an image onto a disk of this machine."),
    "ls": ("agent.commands.look", "List files of an image, as ls -l has them."),
    "cat": ("agent.commands.look", "Print a file of an image."),
    "mount": ("agent.commands.mount", "Mount an image as a read-only file system."),
    "compare": ("agent.commands.compare", "Compare two images: files, packages, configuration."),
    "export": ("agent.commands.export", "Make a disk image that a virtual machine starts from."),
    "extract": ("agent.commands.extract", "Take files out of an image, complete with metadata."),
    "edit": ("agent.commands.edit", "Change the files of an image; the result is a new image."),
    "image": ("agent.commands.edit", "Change images in the depot."),
    "verify": ("agent.commands.verify", "Compare a restored disk with its image."),
    "forget": ("agent.commands.forget", "Remove images by rules or by name; prints first what would go."),
    "pin": ("agent.commands.pin", "Protect images from being forgotten; without IMAGE: list the pins."),
    "unpin": ("agent.commands.pin", "Let images be forgotten again."),
    "prune": ("agent.commands.prune", "Delete what no image needs any more, after a grace period."),
    "check": ("agent.commands.check", "Check a depot: structure, digests, every chunk; heal it from another."),
    "copy": ("agent.commands.copy", "Copy images to another depot; only what is missing travels."),
    "stats": ("agent.commands.stats", "Show what images cost alone, what sharing saves, what is dead."),
    "component": ("agent.commands.component", "Add and list software that hardware may need."),
    "recipe": ("agent.commands.recipe", "Test the adaptations."),
    "undo": ("agent.commands.undo", "Put back what recipes changed on a restored system."),
    "depot": ("agent.commands.depot", "Make a depot; make its catalogue again."),
    "job": ("agent.commands.job", "Queue restores at a depot's server, and see what became of them."),
    "serve": ("agent.commands.serve", "Serve a depot to agents and sources."),
    "agent": ("agent.commands.agent", "What the PE runs: find out what to do, and do it."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called: the agent starts sooner."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = imported(COMMANDS[cmd_name][0])
        command = getattr(module, f"{cmd_name}_" if iskeyword(cmd_name) else cmd_name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


def imported(name: str) -> ModuleType:
    """A module, with the garbage collector kept away from all that is imported: it stays as long as the program, and
    walking through it, while it comes, later and at the end, takes a tenth of the time that a short command needs."""
    gc.disable()
    try:
        return importlib.import_module(name)
    finally:
        gc.freeze()
        gc.enable()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, prog_name="regraft")
def cli() -> None:
    """Restore a machine from a prepared system image onto hardware that may be different.

    The depot is a directory or a URL, given by --depot or REGRAFT_DEPOT.
    An image is NAME (its newest) or NAME@TIME.
    """
