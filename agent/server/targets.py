"""What is to be done with a machine that told what it is: its queued job, else its own image, else candidates."""

from __future__ import annotations

import hashlib
from functools import lru_cache

from sqlalchemy import select

from agent.console.recorder import now
from agent.depot import catalogue
from agent.depot.local import LocalDepot
from agent.errors import DamagedError, NoImageError
from agent.model.image import ImageRef
from agent.model.jobs import Candidate, Job, ProfileKey, State, TargetAnswer
from agent.model.machine_match import is_placeholder, score
from agent.model.profile import Profile
from agent.model.profile_xml import load_profile
from agent.server.database import Database, TargetRow
from agent.server.jobs import Facts, Jobs

CANDIDATES_SHOWN = 50
PROFILE_LIMIT_BYTES = 4 << 20


class Targets:
    def __init__(self, database: Database, depot: LocalDepot, jobs: Jobs) -> None:
        self._database = database
        self._depot = depot
        self._jobs = jobs

    def submit(self, xml: bytes) -> TargetAnswer:
        """Keep what the machine says it is, and decide."""
        profile = load_profile(xml)
        facts = facts_of_profile(profile)
        target = self._keep(xml, profile, facts)
        key = ProfileKey(machine=profile.machine, time=profile.time)
        job = self._jobs.queued_for(facts)
        if job is not None:
            return TargetAnswer(decision="job", target=target, profile=key, job=job, image=job.image,
                                reason=f"job {job.id} is queued for this machine")  # fmt: skip
        found = candidates(self._depot, profile)
        image, reason = self._matching(found, facts)
        return TargetAnswer(
            decision="match" if image else "candidates", target=target, profile=key, image=image, reason=reason,
            candidates=found[:CANDIDATES_SHOWN],
        )  # fmt: skip

    def _matching(self, found: tuple[Candidate, ...], facts: Facts) -> tuple[str, str]:
        """The image of the same machine, and why; "" when that is not certain, or a person has to look first."""
        last = self._jobs.latest_for(facts)
        if last is not None:  # its jobs say what is done with it: one that boots by network would be restored each time
            return "", _why_not(last)
        best = [each for each in found if each.score > 0][:2]
        if not best:
            return "", "no machine in the depot has this one's UUID, serial numbers or network cards"
        if len(best) == 2 and best[0].score == best[1].score:
            return "", f"{best[0].machine} and {best[1].machine} fit equally well"
        return best[0].image, f"the same machine as {best[0].machine}: {'; '.join(best[0].reasons)}"

    def _keep(self, xml: bytes, profile: Profile, facts: Facts) -> int:
        digest = hashlib.sha256(xml).hexdigest()
        with self._database.transaction() as session:
            row = session.scalar(select(TargetRow).where(TargetRow.sha256 == digest))
            if row is None:
                row = TargetRow(
                    sha256=digest, machine=profile.machine, time=profile.time, first_seen=now(), last_seen=now(),
                    vendor=profile.platform.system_vendor, product=profile.platform.product_name,
                    system_uuid=facts.system_uuid, system_serial=facts.system_serial, macs=" ".join(facts.macs),
                    xml=xml,
                )  # fmt: skip
                session.add(row)
                session.flush()
            row.last_seen = now()
            return row.id

    def profile_xml(self, target: int) -> bytes:
        with self._database.transaction() as session:
            row = session.get(TargetRow, target)
            if row is None:
                raise NoImageError(f"no target has the number {target}")
            return row.xml

    def newest_xml(self, limit: int = 200) -> tuple[bytes, ...]:
        """What the machines that asked last said they are."""
        with self._database.transaction() as session:
            return tuple(session.scalars(select(TargetRow.xml).order_by(TargetRow.last_seen.desc()).limit(limit)))

    def newest(self, limit: int = 200) -> tuple[TargetRow, ...]:
        with self._database.transaction() as session:
            return tuple(session.scalars(select(TargetRow).order_by(TargetRow.last_seen.desc()).limit(limit)))


def _why_not(last: Job) -> str:
    if last.state is State.FAILED:
        return f"job {last.id} failed on this machine: {last.message}; queue it again when the cause is gone"
    if last.state is State.DONE:
        return f"job {last.id} restored {last.image} onto this machine; queue it again, or another job"
    return f"job {last.id} is {last.state} on this machine; queue it again if its agent is lost"


def candidates(depot: LocalDepot, profile: Profile) -> tuple[Candidate, ...]:
    """The newest image of every machine of the depot, best fitting first."""
    newest: dict[str, str] = {}
    for image in catalogue.images(depot):
        newest[image.machine] = max(image.time, newest.get(image.machine, ""))
    found: list[Candidate] = []
    for machine, time in newest.items():
        points, reasons = _fit(depot, machine, profile)
        found.append(Candidate(image=str(ImageRef(machine, time)), machine=machine, score=points, reasons=reasons))
    return tuple(sorted(found, key=lambda each: (-each.score, each.machine)))


def _fit(depot: LocalDepot, machine: str, profile: Profile) -> tuple[int, tuple[str, ...]]:
    """How well a machine of the depot fits, and why. One bad profile must not hide the other machines."""
    try:
        known = depot_profile(depot, machine)
    except NoImageError:
        return 0, ("it has no profile",)
    except (DamagedError, FileNotFoundError) as error:
        return 0, (f"its profile cannot be read: {error}",)
    fit = score(known, profile)
    return fit.score, tuple(fit.reasons)


def depot_profile(depot: LocalDepot, machine: str) -> Profile:
    """The newest profile of a machine of the depot. Raises NoImageError when it has none, DamagedError."""
    facts = catalogue.newest_profile(depot, machine)
    if facts is None:
        raise NoImageError(f"machine {machine} has no profile")
    return _profile(depot, facts.machine, facts.time, facts.sha256)


@lru_cache(maxsize=256)
def _profile(depot: LocalDepot, machine: str, time: str, sha256: str) -> Profile:
    path = f"machines/{machine}/profiles/{time}.xml"
    xml = depot.read(path, PROFILE_LIMIT_BYTES)
    found = hashlib.sha256(xml).hexdigest()
    if found != sha256:
        raise DamagedError(f"{path} has SHA-256 {found}, the catalogue names {sha256}", "publish the profile again")
    return load_profile(xml)


def facts_of_profile(profile: Profile) -> Facts:
    """What tells this machine from others; placeholders that vendors leave in tell nothing."""
    uuid = profile.platform.system_uuid.strip().lower()
    serial = profile.platform.system_serial.strip().casefold()
    return Facts(
        system_uuid="" if is_placeholder(uuid) else uuid,
        system_serial="" if is_placeholder(serial) else serial,
        macs=tuple(sorted({nic.mac.lower() for nic in profile.network.nics if not is_placeholder(nic.mac)})),
    )
