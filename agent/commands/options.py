"""Options that several commands share, and what they open."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import click
import msgspec

from agent.console.jsonlines import JsonLines
from agent.console.plain import PlainConsole
from agent.depot.location import open_depot, open_writable
from agent.depot.signing import TrustedKeys, trusted_keys
from agent.depot.store import Depot, WritableDepot
from agent.errors import RegraftError, UsageError
from agent.model.duration import seconds_of
from agent.model.events import Emit
from agent.model.image import NAME, TIME_IN_NAMES, ImageRef

Command = TypeVar("Command", bound=Callable[..., None])


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach a depot: what the options said."""

    location: str
    token: str
    trust: tuple[str, ...]

    def open(self) -> Depot:
        return open_depot(self.location, self.token)

    def open_writable(self) -> WritableDepot:
        return open_writable(self.location, self.token)

    def keys(self, depot: Depot) -> TrustedKeys:
        return trusted_keys(depot, self.trust)


def with_options(command: Command, options: Iterable[Callable[[Command], Command]]) -> Command:
    """A command with these options; --help shows the last one first."""
    for option in options:
        command = option(command)
    return command


def depot_options(command: Command) -> Command:
    """--depot, --token and --trust, handed on as ``access``."""
    return _depot_options(command, required=True)


def optional_depot_options(command: Command) -> Command:
    """As `depot_options`, for commands that can do without a depot: its location is "" then."""
    return _depot_options(command, required=False)


def _depot_options(command: Command, *, required: bool) -> Command:
    options: tuple[Callable[[Command], Command], ...] = (
        click.option("--trust", "trust", multiple=True, envvar="REGRAFT_TRUST", metavar="KEY",
                     help="Public key of the depot, ed25519:BASE64; may be given several times."),
        click.option("--token", envvar="REGRAFT_TOKEN", default="", metavar="TOKEN",
                     help="Token for a depot served by regraft.  [env: REGRAFT_TOKEN]"),
        # To click a default of None is an answer: where one is required, none may be given.
        click.option("--depot", "location", envvar="REGRAFT_DEPOT", metavar="PATH|URL",
                     help="Where the depot is.  [env: REGRAFT_DEPOT]",
                     **({"required": True} if required else {"default": ""})),
    )  # fmt: skip
    return with_options(command, options)


class Span(click.ParamType[int]):
    """A span of time, ``36h`` or ``1w2d``, as seconds."""

    name = "span"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        return value if isinstance(value, int) else seconds_of(str(value))


# For commands that work on the depot's directory itself, where neither token nor key is asked for.
directory_option = click.option("--depot", "location", envvar="REGRAFT_DEPOT", required=True, metavar="PATH",
                                help="The depot's directory.  [env: REGRAFT_DEPOT]")  # fmt: skip
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")


def console(as_json: bool) -> Emit:
    """Where events go: JSON lines or plain lines on standard output."""
    return JsonLines(sys.stdout) if as_json else PlainConsole(sys.stdout)


def parse_image(text: str) -> ImageRef:
    """``NAME`` or ``NAME@TIME``."""
    name, _, time = text.partition("@")
    if not NAME.fullmatch(name) or (time and not TIME_IN_NAMES.fullmatch(time)):
        raise UsageError(
            f"‘{text}’ does not name an image; expected NAME or NAME@TIME such as lab@20261123T204140Z",
            "list the images with ‘regraft images’",
        )
    return ImageRef(name, time)


def print_json(value: object) -> None:
    data: bytes = msgspec.json.format(msgspec.json.encode(value), indent=2)
    click.echo(data.decode())


@contextmanager
def one_document(value: object) -> Iterator[None]:
    """Print a result for programs once the block has judged it: alone, or in one document with the block's error."""
    try:
        yield
    except RegraftError as error:
        error.result = value
        raise
    print_json(value)


def print_json_list(values: Iterable[object]) -> None:
    """One JSON document, a list with a line for each value, however many there are."""
    encoder = msgspec.json.Encoder()
    before = "["
    for value in values:
        sys.stdout.write(f"{before}\n{encoder.encode(value).decode()}")
        before = ","
    sys.stdout.write("[]\n" if before == "[" else "\n]\n")


@contextmanager
def reader_may_leave() -> Iterator[None]:
    """Around output that ‘| head’ and ‘| less’ cut short: then the program ends as cat would, and says nothing."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered goes nowhere
        sys.exit(128 + signal.SIGPIPE)


def write_or_print(data: bytes, output: Path | None) -> None:
    """Bytes to a file, or to standard output."""
    if output is None:
        sys.stdout.buffer.write(data)
    else:
        output.write_bytes(data)
