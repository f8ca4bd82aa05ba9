"""regraft agent: what the PE runs. Find out what this machine is and what to do with it, then do it."""

from __future__ import annotations

import math
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import click
import msgspec

from agent.commands.agent_keys import agent_keys
from agent.commands.options import Access, parse_image
from agent.commands.restoring import carry_out, report_json
from agent.console.plain import PlainConsole
from agent.console.recorder import Recorder
from agent.console.report_text import difference_table, plan_text, report_text
from agent.console.server_events import ServerEvents
from agent.depot.catalogue import find_image
from agent.depot.control import Control, Job, TargetAnswer
from agent.depot.location import open_depot
from agent.depot.store import Depot
from agent.errors import (
    NoImageError,
    RefusedError,
    RegraftError,
    TemporaryError,
    UnexpectedError,
    UnreachableError,
    UsageError,
)
from agent.model.agent_config import AgentConfig, beside, read_config
from agent.model.choices import NONE, Choices, read_choices
from agent.model.excludes import exclude
from agent.model.grow import parse_grow
from agent.model.luks_keys import LuksKey
from agent.model.nic_map import NO_WISHES, NicWishes, parse_wishes, watched
from agent.model.plan import DiskIdentity
from agent.model.profile import Profile
from agent.model.profile_xml import dump_profile
from agent.model.report import Report
from agent.model.spread import NO_WISH, Wish, chosen_disks, parse_map
from agent.model.target_disk import identity
from agent.model.wording import printable
from agent.pe import ending, medium, settle
from agent.pe.duplicate_address import find_duplicates
from agent.probe.machine import probe_machine
from agent.restore.preflight import refuse_blockers, refuse_ties
from agent.restore.prepare import Prepared, RestoreRequest, prepare

CONFIG = Path("/etc/regraft/agent.toml")
REPORT = Path("/run/regraft/report.json")
DEPOT_PATIENCE_S = 180.0
ASK_AGAIN_S = 15.0

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Assignment:
    """What this machine is to become, and who said so."""

    image: str
    disk: str
    mode: str
    unattended: bool
    on_success: str
    job: Job | None
    reason: str
    nic_wishes: NicWishes = NO_WISHES
    wish: Wish = NO_WISH
    choices: Choices = NONE
    keys: tuple[LuksKey, ...] = ()  # of the job; the medium's own come after them


@click.command()
@click.option("--config", "config_path", default=CONFIG, type=click.Path(dir_okay=False, path_type=Path),
              show_default=True, help="Configuration of the medium.")  # fmt: skip
def agent(config_path: Path) -> None:
    """What the PE runs: find out what to do, and do it.

    Asks the depot's server for this machine's job; without one, for the image of the same machine; without that,
    it shows the candidates and waits. Ends as the configuration says (reboot, poweroff, hold, shell).
    """
    recorder = Recorder([PlainConsole(sys.stdout)])
    config = AgentConfig()
    try:
        config = read_configuration(config_path)
        after = TASKS[config.task](config, recorder)
    except RegraftError as error:
        after = failed(error, config, recorder)
    except Exception as error:
        # A bug must not leave a machine of a lab at a console that nobody sees: the medium says what follows.
        after = failed(a_bug(error), config, recorder)
    ending.leave(after)


def a_bug(error: Exception) -> UnexpectedError:
    """What we had no name for, with its place on the console; called where it is caught."""
    traceback.print_exc(file=sys.stdout)
    return UnexpectedError(f"{type(error).__name__}: {error}", "this is a bug; keep the lines above for its report")


def failed(error: RegraftError, config: AgentConfig, recorder: Recorder, reporting: ServerEvents | None = None) -> str:
    """Say what went wrong, here and then to the server that a job is of; what to do afterwards."""
    recorder.error(error)
    click.echo(f"\nregraft: {error.message}")
    if reporting:
        reporting.failed(error)
    click.echo(f"RESULT failed {error.code} exit {error.exit_code}")
    return config.on_failure


def read_configuration(path: Path) -> AgentConfig:
    text = path.read_text() if path.exists() else ""
    return beside(read_config(text, Path("/proc/cmdline").read_text(), str(path)), str(path.parent))


# --- tasks --------------------------------------------------------------------------------------------------------


def restore_task(config: AgentConfig, recorder: Recorder) -> str:
    """Restore this machine; returns what to do afterwards."""
    depot = connect(config, recorder)
    target = look_at_machine(recorder)
    control = Control(config.depot, config.token) if is_url(config.depot) else None
    found = find_assignment(config, target, control, recorder)
    reporting = None if isinstance(found, Assignment) else found
    if reporting:
        recorder.sinks = (*recorder.sinks, reporting)
    try:
        assignment = found if isinstance(found, Assignment) else assignment_of(found, config)
        report = restore_assigned(assignment, depot, config, target, recorder)
        alone = report.exit_code != 0 or is_alone(config, assignment, depot, target, recorder)
        leave_report(report, reporting)
    except RegraftError as error:
        return failed(error, config, recorder, reporting)
    except Exception as error:
        # Of a job that was taken nobody else can tell: it would be ‘running’ for ever, and its keys held.
        return failed(a_bug(error), config, recorder, reporting)
    if not alone:
        return "hold"
    return assignment.on_success if report.exit_code == 0 else config.on_failure


def restore_assigned(
    assignment: Assignment, depot: Depot, config: AgentConfig, target: Profile, recorder: Recorder
) -> Report:
    with recorder.phase("plan", f"comparing {assignment.image} with this machine ({assignment.reason})"):
        access = Access(depot.location, config.token, config.trust)
        prepared = prepare(depot, access.keys(depot), RestoreRequest(
            image=parse_image(assignment.image), target=target, selector=assignment.disk, mode=assignment.mode,
            trust_metadata=config.trust_metadata, nic_wishes=assignment.nic_wishes, wish=assignment.wish,
            choices=assignment.choices,
        ))  # fmt: skip
    key_of = agent_keys(config, assignment.keys, attended=not assignment.unattended, new=True)
    click.echo(difference_table(prepared.difference))
    click.echo(plan_text(prepared.plan))
    consent(prepared, assignment)
    return carry_out(prepared, recorder, key_of=key_of)


def is_alone(config: AgentConfig, assignment: Assignment, depot: Depot, target: Profile, recorder: Recorder) -> bool:
    """Whether the machine may start: false where another one answers at its addresses and the medium says stop."""
    if config.duplicate_address == "ignore" or assignment.mode == "clone":
        return True
    try:
        keys = Access(depot.location, config.token, config.trust).keys(depot)
        source = find_image(depot, keys, parse_image(assignment.image)).profile
    except RegraftError as error:  # the machine is restored all the same
        recorder.warning(f"whether its addresses are in use is not known: {error}")
        return config.duplicate_address != "stop"
    cards = watched(source, target, assignment.nic_wishes)
    found, unasked = find_duplicates(cards, {nic.mac for nic in target.network.nics})
    for text in unasked:
        recorder.warning(text)
    for one in found:
        recorder.warning(f"{one.address} is in use on {one.card}: {one.mac} answers. Is the source still running?")
    if found and config.duplicate_address == "stop":
        click.echo("the machine is restored and does not restart: end the other machine, then restart this one")
        return False
    return True


def capture_task(config: AgentConfig, recorder: Recorder) -> str:
    """Capture this machine's disk, unmounted, into the depot."""
    # The restore path never needs the engine's writer.
    from agent.commands.capture import capture_disk, named  # noqa: PLC0415 - loads the engine's writer
    from agent.probe.blocks import Choice  # noqa: PLC0415 - comes with it

    connect(config, recorder)
    target = look_at_machine(recorder)
    choice = Choice(named(config.without), named(config.whole))
    access = Access(config.depot, config.token, config.trust)
    excludes = tuple(exclude(glob, "the boot medium") for glob in config.exclude)
    captured = capture_disk(access, config.name, (config.disk, *config.also), target, recorder, choice, excludes,
                            key_of=agent_keys(config, attended=not config.unattended))  # fmt: skip
    click.echo(f"RESULT captured {captured.ref} exit 0")
    return config.on_success


def hold_task(config: AgentConfig, recorder: Recorder) -> str:
    recorder.message("nothing to do: this medium is configured to hold")
    return "hold"


TASKS: dict[str, Callable[[AgentConfig, Recorder], str]] = {
    "restore": restore_task,
    "capture": capture_task,
    "hold": hold_task,
}


# --- the way to an assignment -------------------------------------------------------------------------------------


def is_url(location: str) -> bool:
    return location.startswith(("http://", "https://"))


def connect(config: AgentConfig, recorder: Recorder) -> Depot:
    """The depot, waited for: links, leases and servers come up in their own time."""
    if not config.depot:
        raise UsageError("this medium names no depot", "set depot in agent.toml or boot with regraft.depot=URL")
    location = medium.mounted_depot(config.depot)
    with recorder.phase("connect", f"reaching the depot {config.depot}"):
        deadline = time.monotonic() + DEPOT_PATIENCE_S
        while True:
            try:
                depot = open_depot(location, config.token)
                depot.read("depot.json")
            except (UnreachableError, TemporaryError) as error:
                if time.monotonic() > deadline:
                    raise
                recorder.message(f"{error.message}; trying again", "connect")
                time.sleep(3)
            else:
                return depot


def look_at_machine(recorder: Recorder) -> Profile:
    with recorder.phase("profile", "looking at this machine"):
        settle.wait_for_hardware()
        profile = probe_machine("target")
    platform = profile.platform
    recorder.message(
        f"{platform.system_vendor} {platform.product_name}, serial {platform.system_serial or '-'}, "
        f"{platform.firmware.upper()}, {platform.memory_bytes >> 20} MiB, {len(profile.disks)} disks, "
        f"{len(profile.network.nics)} network cards"
    )
    return profile


def find_assignment(
    config: AgentConfig, target: Profile, control: Control | None, recorder: Recorder
) -> Assignment | ServerEvents:
    """The job queued for this machine, claimed; else the image of the same machine; else what the medium says."""
    if config.image:
        if not config.disk:
            raise UsageError("this medium names an image but no disk", 'set disk, e.g. disk = "only-eligible"')
        return Assignment(config.image, config.disk, config.mode, config.unattended, config.on_success, None,
                          "named by the medium", parse_wishes(config.nic, config.on_nic_tie),
                          wish_of(config), medium_choices(config))  # fmt: skip
    if control is None:
        raise NoImageError("this medium names no image, and a depot without a server cannot assign one",
                           "set image and disk in agent.toml")  # fmt: skip
    ask = partial(control.submit_target, dump_profile(target))
    patience_s = DEPOT_PATIENCE_S  # until the server has told this machine to wait: then until it is back
    while True:
        answer = answered(ask, recorder, patience_s)
        found = assigned(answer, config, control, recorder)
        if found:
            return found
        if answer.decision != "job":
            show_candidates(answer)
            recorder.message("no job and no image of this machine; waiting for a job", "plan")
        patience_s = math.inf
        time.sleep(ASK_AGAIN_S)


def answered(ask: Callable[[], Answer], recorder: Recorder, patience_s: float = math.inf) -> Answer:
    """What the server says; one that is away, or starts again, is waited for."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return ask()
        except (UnreachableError, TemporaryError) as error:
            if time.monotonic() > deadline:
                raise
            recorder.message(f"{error.message}; trying again", "plan")
            time.sleep(ASK_AGAIN_S)


def assigned(
    answer: TargetAnswer, config: AgentConfig, control: Control, recorder: Recorder
) -> Assignment | ServerEvents | None:
    """What the answer gives this machine to do: nothing where it is to wait, or another machine was faster."""
    if answer.decision == "job" and answer.job:
        try:
            # Without end: a claim whose answer got lost has taken the job, and only this machine can tell of it.
            job = answered(partial(control.claim, answer.job.id), recorder)
        except RefusedError as error:
            recorder.message(f"job {answer.job.id} went to another machine or was cancelled; asking again "
                             f"({error.message})", "plan")  # fmt: skip
            return None
        # From here on the server hears what comes of the job, also where it cannot even be begun.
        return ServerEvents(control, job, click.echo)
    if answer.decision == "match":
        return Assignment(answer.image, config.disk or "only-eligible", config.mode, config.unattended,
                          config.on_success, None, "the same machine",
                          parse_wishes(config.nic, config.on_nic_tie), wish_of(config),
                          medium_choices(config))  # fmt: skip
    return None


def assignment_of(claimed: ServerEvents, config: AgentConfig) -> Assignment:
    """What a claimed job says, and the medium where it says nothing."""
    job = claimed.job
    return Assignment(job.image, job.disk, job.mode, True, job.on_success or config.on_success, job, f"job {job.id}",
                      parse_wishes(job.nic or config.nic, job.on_nic_tie or config.on_nic_tie),
                      job_wish(job, config), job_choices(job, config),
                      claimed.control.job_keys(job.id) if job.luks_keys else ())  # fmt: skip


def wish_of(config: AgentConfig) -> Wish:
    """What the medium says of the layout."""
    return Wish(parse_grow(config.grow), config.also, tuple(map(parse_map, config.map)), config.arrays)


def job_wish(job: Job, config: AgentConfig) -> Wish:
    """What a job says of the layout, and the medium where it says nothing; not of further disks, which is consent."""
    return wish_of(msgspec.structs.replace(
        config, also=job.also, grow=job.grow or config.grow, map=job.map or config.map,
        arrays=job.arrays or config.arrays,
    ))  # fmt: skip


def job_choices(job: Job, config: AgentConfig) -> Choices:
    """The job's edits, else the medium's, of which [disks] does not count: a job alone says what it erases."""
    if job.edits:
        return read_choices(job.edits, "the job’s edits")
    return msgspec.structs.replace(medium_choices(config), disks={})


def medium_choices(config: AgentConfig) -> Choices:
    """An operator's edits beside the medium's configuration."""
    if not config.edits:
        return NONE
    try:
        return read_choices(Path(config.edits).read_text("utf-8", "replace"), config.edits)
    except OSError as error:
        raise UsageError(
            f"the medium’s configuration names the edits {config.edits}, which cannot be read: {error.strerror}",
            "make the medium again: ‘python -m pe_build customize’ takes along what the configuration names",
        ) from None


def show_candidates(answer: TargetAnswer) -> None:
    click.echo("images that could be restored here:")
    for candidate in answer.candidates:
        click.echo(f"  {candidate.score:4d}  {candidate.image}  {'; '.join(candidate.reasons)}")


def consent(prepared: Prepared, assignment: Assignment) -> None:
    """A job's selector, or the medium's ``unattended``, is consent given; else a person types each disk's serial."""
    plan = prepared.plan
    if assignment.job:
        refuse_other_disks(prepared, assignment.job)
    if assignment.unattended:
        refuse_blockers(prepared.difference)
        refuse_ties(prepared.difference)
        if plan.unsure:
            raise RefusedError(
                f"nobody is here to decide: {'; '.join(plan.unsure)}",
                "nothing was written; map what goes where, take the other disk out, or restore attended",
            )
        return
    for disk in plan.disks:
        wanted = disk.serial or disk.name
        typed = click.prompt(f"Type {wanted} to ERASE this disk, anything else stops", default="", show_default=False)
        if typed.strip() != wanted:
            raise RefusedError(f"no consent: ‘{typed}’ was typed, expected ‘{wanted}’", "nothing was written")


def refuse_other_disks(prepared: Prepared, job: Job) -> None:
    """A job erases exactly the disks that its own selectors leave, whatever edits and layout made of them."""
    selectors = (job.disk, *job.also)
    named = chosen_disks(job.disk, Wish(also=job.also), prepared.target.disks)
    erased = prepared.plan.disks
    if sorted(disk.name for disk in named) != sorted(disk.name for disk in erased):
        raise RefusedError(
            f"job {job.id} names {', '.join(selectors)}, which is {disks_text(map(identity, named))}, but the plan "
            f"erases {disks_text(erased)}",
            "nothing was written; make a job that names every disk which may be erased, without [disks] in its edits",
        )


def disks_text(disks: Iterable[DiskIdentity]) -> str:
    return "; ".join(f"{disk.name} (serial {printable(disk.serial, 60) or '-'})" for disk in disks)


def leave_report(report: Report, reporting: ServerEvents | None) -> None:
    """On this screen, at the server that a job is of, and in a file; none of them keeps the machine from its end."""
    click.echo(report_text(report))
    if reporting:
        try:
            reporting.finish(report)
        except RegraftError as error:  # the machine is restored all the same, and its report is on this screen
            click.echo(f"the report could not be sent: {error}")
    try:
        REPORT.parent.mkdir(parents=True, exist_ok=True)
        REPORT.write_bytes(report_json(report))
    except OSError as error:
        click.echo(f"the report could not be written to {REPORT}: {error.strerror}; it is on this screen")
    click.echo(f"RESULT {report.result} exit {report.exit_code} plan {report.plan_sha256[:16]}")
