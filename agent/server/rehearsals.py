"""Rehearsals on the server: when something arrives, every known target is decided for again, with its image.

The server mounts no image: these are decisions alone (difference, plan, components), by the program itself, one after
the other, each in a process of its own. Results are files in the server's state, one for each target, the newest only.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from agent.console.recorder import now
from agent.depot import catalogue
from agent.depot.local import LocalDepot
from agent.depot.signing import regraft_home
from agent.errors import DamagedError, NoImageError, RegraftError
from agent.model.difference import Light
from agent.model.jobs import Job
from agent.model.likeness import likeness
from agent.model.profile import Profile
from agent.model.profile_xml import load_profile
from agent.model.rehearsed import Rehearsed, light_of_report, sentence_of_report
from agent.model.report import Report
from agent.model.undecodable import UNDECODABLE
from agent.model.wording import printable
from agent.process import run
from agent.server.jobs import Jobs, same_machine
from agent.server.targets import Targets, candidates, depot_profile, facts_of_profile
from agent.version import TOOL

TIMEOUT_S = 300.0
PROGRAM = (sys.executable, "-m", "agent")


@dataclass(frozen=True, slots=True)
class Pair:
    """A target, and what would be restored onto it."""

    id: str
    profile: Profile
    xml: bytes
    image: str
    why: str
    job: Job | None = None  # that is queued for it: its word on disks, cards and all else counts


class _Error(msgspec.Struct):
    code: str
    message: str
    exit_code: int


class _Said(msgspec.Struct):
    error: _Error


class Rehearsals:
    """Those of one server. ``automatic``: whether arrivals start them."""

    def __init__(self, folder: Path, depot: LocalDepot, targets: Targets, jobs: Jobs, automatic: bool = False) -> None:
        self._folder = folder
        self._depot = depot
        self._targets = targets
        self._jobs = jobs
        self.automatic = automatic
        self._wanted = threading.Event()
        self._worker: threading.Thread | None = None
        self._lock = threading.Lock()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    # --- asking ---------------------------------------------------------------------------------------------------

    def arrived(self) -> None:
        """A profile, an image, a component, a job or a target has come: decide again, if so configured."""
        if self.automatic:
            self.ask()

    def ask(self) -> None:
        """Rehearse for every target whose image, profile or components are not those of last time."""
        self._wanted.set()
        with self._lock:
            if self._worker is None or not self._worker.is_alive():  # what nobody expected ended it
                self._worker = threading.Thread(target=self._work, name="rehearsals", daemon=True)
                self._worker.start()

    def _work(self) -> None:
        while True:
            self._wanted.wait()
            self._wanted.clear()
            try:
                self.rehearse_all()
            except (RegraftError, OSError, *UNDECODABLE) as error:
                print(f"regraft: rehearsing: {error}", file=sys.stderr, flush=True)  # and again at the next arrival

    def rehearse_all(self) -> None:
        """One round; forgets targets that are no longer known."""
        pairs = {pair.id: pair for pair in self.pairs()}
        for place in self._folder.glob("*.json"):
            if place.name.partition(".")[0] not in pairs:
                place.unlink()
        for pair in pairs.values():
            basis = self._basis(pair)
            if basis != self._known_basis(pair.id):
                self._rehearse(pair, basis)

    # --- what is rehearsed ----------------------------------------------------------------------------------------

    def pairs(self) -> Iterator[Pair]:
        """Every machine that asked, and every machine of the depot, newest profile first, each once."""
        seen: list[Profile] = []
        for xml in (*self._targets.newest_xml(), *self._depot_xml()):
            try:
                profile = load_profile(xml)
            except DamagedError:
                continue  # one bad profile must not hide the other machines
            if not any(_same(profile, other) for other in seen):
                seen.append(profile)
                yield self._pair(profile, xml)

    def _depot_xml(self) -> Iterator[bytes]:
        newest: dict[str, str] = {}
        for facts in catalogue.read_catalogue(self._depot).profiles:
            newest[facts.machine] = max(facts.time, newest.get(facts.machine, ""))
        for machine, time in sorted(newest.items()):
            yield self._depot.read(f"machines/{machine}/profiles/{time}.xml")

    def _pair(self, profile: Profile, xml: bytes) -> Pair:
        facts = facts_of_profile(profile)
        key = "\n".join((profile.machine, facts.system_uuid, facts.system_serial, *facts.macs))
        name = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:16]
        job = self._jobs.queued_for(facts)
        if job is not None:
            return Pair(name, profile, xml, job.image, f"job {job.id}", job)
        image, why = most_fitting(self._depot, profile)
        return Pair(name, profile, xml, image, why)

    def _basis(self, pair: Pair) -> str:
        components = [(c.id, c.version, c.sha256) for c in catalogue.read_catalogue(self._depot).components]
        job = [*words_of(pair.job), pair.job.edits] if pair.job else []
        said = msgspec.json.encode([pair.image, job, components, TOOL])
        return hashlib.sha256(said + pair.xml).hexdigest()

    # --- one of them ----------------------------------------------------------------------------------------------

    def _rehearse(self, pair: Pair, basis: str) -> None:
        facts = Rehearsed(
            id=pair.id, target=f"{pair.profile.machine}@{pair.profile.time}", image=pair.image, why=pair.why,
            product=f"{pair.profile.platform.system_vendor} {pair.profile.platform.product_name}".strip(),
            light=Light.AMBER, exit_code=NoImageError.exit_code, message=pair.why, rehearsed=now(), basis=basis,
        )  # fmt: skip
        if not pair.image:
            self._keep(facts, b"")
            return
        try:
            self._tell(facts, self._decided(pair))
        except (RegraftError, OSError, *UNDECODABLE) as error:
            self._keep(_red(facts, getattr(error, "exit_code", 1), str(error)), b"")

    def _decided(self, pair: Pair) -> bytes:
        """What the program says with --json."""
        with tempfile.TemporaryDirectory(prefix="rehearse-", dir=self._depot.staging) as folder:
            target = Path(folder) / "target.xml"
            target.write_bytes(pair.xml)
            words = ["rehearse", pair.image, str(target), "--decisions", "--json"]
            words += ["--depot", str(self._depot.root.resolve())]
            if pair.job:
                words += words_of(pair.job)
            if pair.job and pair.job.edits:
                edits = Path(folder) / f"edits of job {pair.job.id}"
                edits.write_text(pair.job.edits, "utf-8")
                words += ["--edits", str(edits)]
            environment = {"REGRAFT_HOME": str(regraft_home())}
            told = run([*PROGRAM, *words], timeout_s=TIMEOUT_S, accept=range(256), environment=environment)
            return told.stdout.encode()

    def _tell(self, facts: Rehearsed, said: bytes) -> None:
        try:
            report = msgspec.json.decode(said, type=Report)
        except msgspec.ValidationError:
            error = msgspec.json.decode(said, type=_Said).error
            self._keep(_red(facts, error.exit_code, error.message), b"")
            return
        told = msgspec.structs.replace(
            facts, light=light_of_report(report), exit_code=report.exit_code, message=sentence_of_report(report),
            has_report=True,
        )  # fmt: skip
        self._keep(told, said)

    # --- what is kept ---------------------------------------------------------------------------------------------

    def newest(self) -> list[Rehearsed]:
        """Red first, then amber, then green; by target."""
        found = [msgspec.json.decode(path.read_bytes(), type=Rehearsed) for path in self._folder.glob("*.record.json")]
        return sorted(found, key=lambda each: (-tuple(Light).index(Light(each.light)), each.target))

    def report(self, name: str) -> bytes:
        """The report of a rehearsal, as JSON."""
        path = self._folder / f"{name}.report.json"
        if not name.isalnum() or not path.is_file():
            raise NoImageError(
                f"there is no report of a rehearsal ‘{printable(name, 40)}’", "list them with GET /api/v1/rehearsals"
            )
        return path.read_bytes()

    def _known_basis(self, name: str) -> str:
        path = self._folder / f"{name}.record.json"
        return msgspec.json.decode(path.read_bytes(), type=Rehearsed).basis if path.is_file() else ""

    def _keep(self, record: Rehearsed, report: bytes) -> None:
        """The report first: a record that says there is one is right."""
        if report:
            self._write(f"{record.id}.report.json", report)
        self._write(f"{record.id}.record.json", msgspec.json.encode(record))

    def _write(self, name: str, data: bytes) -> None:
        staged = self._folder / f".{name}"
        staged.write_bytes(data)
        staged.chmod(0o600)
        staged.rename(self._folder / name)


def words_of(job: Job) -> list[str]:
    """What a job says, in the words of `regraft rehearse`; what it leaves to a medium's configuration is as usual."""
    words = [f"--disk={selector}" for selector in (job.disk, *job.also)]
    words += [f"--map={each}" for each in job.map]
    words += [f"--nic={each}" for each in job.nic]
    for option, value in (
        ("mode", job.mode),
        ("grow", job.grow),
        ("arrays", job.arrays),
        ("on-nic-tie", job.on_nic_tie),
    ):
        words += [f"--{option}={value}"] if value else []
    return words


def _red(facts: Rehearsed, exit_code: int, message: str) -> Rehearsed:
    return msgspec.structs.replace(facts, light=Light.RED, exit_code=exit_code, message=printable(message, 300))


def _same(one: Profile, other: Profile) -> bool:
    return one.machine == other.machine or same_machine(facts_of_profile(one), facts_of_profile(other))


def most_fitting(depot: LocalDepot, profile: Profile) -> tuple[str, str]:
    """The image that a machine would get without a job, and why: its own, else that of the machine most alike."""
    found = candidates(depot, profile)
    if found and found[0].score > 0:
        return found[0].image, f"the same machine as {found[0].machine}: {'; '.join(found[0].reasons)}"
    alike: list[tuple[float, str, str]] = []
    for each in found:
        try:
            other = depot_profile(depot, each.machine)
        except (NoImageError, DamagedError, FileNotFoundError):
            continue
        same = bool(profile.platform.product_name) and other.platform.product_name == profile.platform.product_name
        alike.append((likeness(profile, other) + same, each.image, each.machine))
    best = max(alike, default=(0.0, "", ""))
    if best[0] <= 0:
        return "", "no image of the depot is of this machine or of one alike"
    return best[1], f"the machine most alike: {best[2]}"
