"""regraft prune: delete what no image needs."""

from __future__ import annotations

import click

from agent.commands.options import Span, directory_option, json_option, print_json
from agent.commands.stats import waste_text
from agent.console.house_text import prune_text
from agent.depot.local import LocalDepot, now_compact
from agent.depot.location import open_local
from agent.depot.prune import GRACE_S, plan_prune
from agent.depot.prune import prune as prune_depot
from agent.depot.stored import read_manifest, stored_images
from agent.errors import DamagedError
from agent.image.usage import DepotUse, measure
from agent.model.duration import span_text


@click.command()
@click.option("--grace", type=Span(), default=GRACE_S, metavar="SPAN",
              help=f"How long a file stays once it is unreferenced.  [default: {span_text(GRACE_S)}]")  # fmt: skip
@click.option(
    "--delete", is_flag=True, help="Consent: mark, and DELETE what the plan says. Without it nothing changes."
)
@directory_option
@json_option
def prune(grace: int, delete: bool, location: str, as_json: bool) -> None:
    """Delete packs, listings and leftovers that no image needs.

    Without --delete it prints what it found and changes nothing. With it, files that nothing refers to are marked, and
    those that have been marked for longer than --grace are deleted; so it takes two calls, or ‘regraft forget’ before,
    which marks too. A capture that runs is safe: what it may rely on is left alone.
    """
    depot = open_local(location, "pruning")
    plan = prune_depot(depot, grace) if delete else plan_prune(depot, grace, now_compact())
    use = waste(depot)
    if as_json:
        print_json({"plan": plan, "deleted": delete, "use": use if isinstance(use, DepotUse) else None})
        return
    click.echo("\n".join(prune_text(plan, grace, delete)))
    click.echo(
        waste_text(use) if isinstance(use, DepotUse) else f"bytes that are dead inside live packs: unknown, {use}"
    )


def waste(depot: LocalDepot) -> DepotUse | str:
    """What is dead inside packs that are used; or why nobody can tell."""
    try:
        return measure(depot, (read_manifest(depot, ref) for ref in stored_images(depot)))
    except DamagedError as error:
        return f"{error.message}; see ‘regraft check’"
