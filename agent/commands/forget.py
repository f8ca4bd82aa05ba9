"""regraft forget: images that go, by rules or by name."""

from __future__ import annotations

from collections.abc import Sequence

import click

from agent.commands.options import Span, directory_option, json_option, parse_image, print_json
from agent.console.house_text import verdicts_table
from agent.depot.forget import forget as remove_images
from agent.depot.forget import plan_forget
from agent.depot.local import now_compact
from agent.depot.location import open_local
from agent.errors import UsageError
from agent.model.image import ImageRef
from agent.model.retention import Rules, Verdict

COUNT = click.IntRange(min=0)


@click.command()
@click.argument("what", nargs=-1, metavar="[MACHINE|IMAGE]...")
@click.option("--keep-last", type=COUNT, default=0, metavar="N", help="Keep the newest N images of a machine.")
@click.option("--keep-daily", type=COUNT, default=0, metavar="N", help="Keep the newest image of each of N days.")
@click.option("--keep-weekly", type=COUNT, default=0, metavar="N", help="Keep the newest image of each of N weeks.")
@click.option("--keep-monthly", type=COUNT, default=0, metavar="N", help="Keep the newest image of each of N months.")
@click.option("--keep-within", type=Span(), default=0, metavar="SPAN",
              help="Keep images made within SPAN (36h, 7d, 1w2d, 1y) of the newest.")  # fmt: skip
@click.option("--delete", is_flag=True, help="Consent: REMOVE what the plan says. Without it nothing is removed.")
@directory_option
@json_option
def forget(
    what: tuple[str, ...], keep_last: int, keep_daily: int, keep_weekly: int, keep_monthly: int, keep_within: int,
    delete: bool, location: str, as_json: bool,
) -> None:  # fmt: skip
    """Remove images that no rule keeps, or that are named as NAME@TIME.

    Without --delete it prints what would be kept and why, and what would go. Rules count for each MACHINE, or for all
    machines when none is named. Images that are pinned or that a job of this machine's server waits for, and the newest
    of each machine, are never removed by a rule. What only removed images needed is deleted by ‘regraft prune’, later.
    """
    rules = Rules(keep_last, keep_daily, keep_weekly, keep_monthly, keep_within)
    machines, named = parted(what, rules)
    depot = open_local(location, "forgetting images")
    verdicts = plan_forget(depot, machines, named, rules, now_compact())
    going = [verdict.image for verdict in verdicts if not verdict.keep]
    if not as_json:
        click.echo(verdicts_table(verdicts) if verdicts else "no images to decide about")
    if delete and going:
        remove_images(depot, going)
    if as_json:
        print_json({"verdicts": [_plain(each) for each in verdicts], "removed": delete})
    else:
        click.echo(outcome(len(going), len(verdicts), delete))


def parted(what: Sequence[str], rules: Rules) -> tuple[tuple[str, ...], tuple[ImageRef, ...]]:
    """The machines and the images that are named. A machine without a rule, or a rule without a machine to apply to
    beside named images, is refused: it might be a slip, and what goes does not come back."""
    refs = dict.fromkeys(map(parse_image, what))
    machines = tuple(ref.machine for ref in refs if not ref.time)
    named = tuple(ref for ref in refs if ref.time)
    if not rules and (machines or not named):
        raise UsageError(
            f"no rule says what is kept of {', '.join(machines) or 'the machines'}",
            "give --keep-last or another rule, or name single images as NAME@TIME",
        )
    if rules and named and not machines:
        raise UsageError("the rules apply to no machine", "name the machines too, or call it twice")
    return machines, named


def outcome(going: int, count: int, delete: bool) -> str:
    if not going:
        return "Nothing goes."
    if delete:
        return f"{going} of {count} images removed. ‘regraft prune’ deletes what only they needed."
    return f"{going} of {count} images would go. Nothing was removed. To REMOVE them: --delete"


def _plain(verdict: Verdict) -> dict[str, object]:
    return {"image": str(verdict.image), "keep": verdict.keep, "reasons": verdict.reasons}
