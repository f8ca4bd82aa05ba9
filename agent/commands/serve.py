"""regraft serve: a depot for agents and sources."""

from __future__ import annotations

from pathlib import Path

import click

from agent.errors import UsageError


@click.command()
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@click.option("--host", default="0.0.0.0", show_default=True, help="Address to listen on.")
@click.option(
    "--port", default=8440, show_default=True, type=click.IntRange(0, 65535), help="Port; 0 takes a free one."
)
@click.option(
    "--write-token", envvar="REGRAFT_TOKEN", metavar="TOKEN", help="Token that may publish.  [env: REGRAFT_TOKEN]"
)
@click.option("--public-read", is_flag=True, help="Let everybody read images; they contain the machines' secrets.")
@click.option("--rehearse", is_flag=True,
              help="When something arrives, decide for every known machine whether it could be restored.")  # fmt: skip
def serve(
    directory: Path, host: str, port: int, write_token: str | None, public_read: bool, rehearse: bool
) -> None:  # fmt: skip
    """Serve the depot in DIRECTORY, made when it does not exist."""
    try:
        import agent.server.run as server  # noqa: PLC0415 - the program for sources and media is without it
    except ModuleNotFoundError as error:
        raise UsageError(
            f"this program has no server in it: {error.name} is absent",
            "serve the depot with the program that ‘make setup’ installs; a plain web server serves readers as well",
        ) from None
    options = server.ServeOptions(write_token=write_token or "", public_read=public_read, rehearse=rehearse)
    server.serve(directory, host, port, options)
