"""Images that go: the right ones, in an order that never leaves a broken one to choose; pins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import update

from agent.depot.catalogue import find_image, images, read_catalogue
from agent.depot.forget import forget, plan_forget
from agent.depot.local import LocalDepot
from agent.depot.marks import MARKS_FILE, decode_marks
from agent.depot.open_jobs import DATABASE_FILE, state_folder
from agent.depot.pins import pin, read_pins, unpin
from agent.depot.signing import trusted_keys
from agent.depot.store import image_path
from agent.depot.stored import known_images, stored_images
from agent.errors import DamagedError, NoImageError, RefusedError
from agent.model.image import ImageRef
from agent.model.jobs import Job, JobMatch, JobRequest, State
from agent.model.retention import Rules
from agent.server.database import AttemptRow, Database
from agent.server.held_keys import HeldKeys
from agent.server.jobs import Jobs
from tests.depot.small_images import path_of, publish

TIMES = ("20261121T000000Z", "20261122T000000Z", "20261123T000000Z")
NOW = "20261124T120000Z"


@pytest.fixture
def refs(depot: LocalDepot, tmp_path: Path) -> list[ImageRef]:
    """Three images, oldest first, that share a pack; each has one of its own."""
    return [publish(depot, tmp_path, time, (b"shared", time.encode())) for time in TIMES]


def listed(depot: LocalDepot) -> list[ImageRef]:
    return [ImageRef(each.machine, each.time) for each in images(depot)]


def marks(depot: LocalDepot) -> dict[str, str]:
    return decode_marks(depot.read(MARKS_FILE), "") if depot.exists(MARKS_FILE) else {}


def test_a_forgotten_image_is_gone_and_the_others_are_whole(depot: LocalDepot, refs: list[ImageRef]) -> None:
    forget(depot, refs[:2], lambda: NOW)
    assert listed(depot) == list(stored_images(depot)) == refs[2:]
    assert not [path for ref in refs[:2] for path in depot.root.glob(f"machines/*/images/{ref.time}*")]
    trust = trusted_keys(depot)
    assert find_image(depot, trust, ImageRef("web-1")).manifest.ref == refs[2]
    with pytest.raises(NoImageError):
        find_image(depot, trust, refs[0])
    assert read_catalogue(depot).profiles, "profiles stay"


def test_what_only_it_needed_is_marked_and_stays_for_now(depot: LocalDepot, refs: list[ImageRef]) -> None:
    forget(depot, refs[:1], lambda: NOW)
    assert marks(depot).keys() >= {path_of(TIMES[0].encode())} and set(marks(depot).values()) == {NOW}
    assert path_of(b"shared") not in marks(depot)
    assert depot.exists(path_of(TIMES[0].encode()))
    forget(depot, refs[1:], lambda: "20261125T000000Z")
    assert marks(depot)[path_of(b"shared")] == "20261125T000000Z"
    assert marks(depot)[path_of(TIMES[0].encode())] == NOW, "an older mark stays"


def test_the_plan_says_what_stays_and_why(depot: LocalDepot, refs: list[ImageRef]) -> None:
    pin(depot, [refs[0]])
    verdicts = plan_forget(depot, (), (), Rules(last=1), NOW)
    assert {each.image: each.keep for each in verdicts} == {refs[2]: True, refs[1]: False, refs[0]: True}
    assert listed(depot) == refs, "planning removes nothing"


def test_a_named_image_goes_even_the_newest(depot: LocalDepot, refs: list[ImageRef]) -> None:
    (verdict,) = plan_forget(depot, (), [refs[2]], Rules(), NOW)
    assert verdict.image == refs[2] and not verdict.keep and verdict.named
    forget(depot, [refs[2]])
    assert find_image(depot, trusted_keys(depot), ImageRef("web-1")).manifest.ref == refs[1]


def test_rules_reach_the_named_machines_only(depot: LocalDepot, refs: list[ImageRef], tmp_path: Path) -> None:
    others = [publish(depot, tmp_path, time, (b"o",), "db-1") for time in TIMES]
    of_one = plan_forget(depot, ["db-1"], (), Rules(last=1), NOW)
    assert [each.image for each in of_one] == others[::-1]
    both = plan_forget(depot, ["db-1"], [refs[0]], Rules(last=1), NOW)
    assert [each.image for each in both if not each.keep] == [refs[0], others[1], others[0]]
    assert len(plan_forget(depot, (), (), Rules(last=1), NOW)) == 6
    with pytest.raises(NoImageError, match=r"‘mail’.*db-1, web-1"):
        plan_forget(depot, ["mail"], (), Rules(last=1), NOW)
    with pytest.raises(NoImageError, match="web-1@20200101T000000Z"):
        plan_forget(depot, (), [ImageRef("web-1", "20200101T000000Z")], Rules(), NOW)


def test_a_pinned_image_is_never_forgotten(depot: LocalDepot, refs: list[ImageRef]) -> None:
    pin(depot, [refs[1]])
    with pytest.raises(RefusedError, match="pinned"):
        plan_forget(depot, (), [refs[1]], Rules(), NOW)
    with pytest.raises(RefusedError, match="pinned"):
        forget(depot, refs)
    assert listed(depot) == refs, "none of them went"
    unpin(depot, [refs[1]])
    forget(depot, [refs[1]])
    assert listed(depot) == [refs[0], refs[2]]


def test_pins_come_and_go(depot: LocalDepot, refs: list[ImageRef]) -> None:
    assert read_pins(depot) == ()
    (first,) = pin(depot, [refs[2]])
    assert pin(depot, [refs[2], refs[0]])[0] == first, "an older pin keeps its time"
    assert [each.image for each in read_pins(depot)] == [refs[0], refs[2]]
    with pytest.raises(NoImageError):
        pin(depot, [refs[1], ImageRef("web-1", "20200101T000000Z")])
    with pytest.raises(NoImageError, match="not pinned"):
        unpin(depot, [refs[0], refs[1]])
    assert len(read_pins(depot)) == 2, "all or nothing"
    unpin(depot, [refs[0], refs[2]])
    assert read_pins(depot) == ()


def test_pins_that_are_not_understood_stop_everything(depot: LocalDepot, refs: list[ImageRef]) -> None:
    (depot.root / "pins.json").write_text('{"format": 1, "pins": [')
    for act in (lambda: forget(depot, refs), lambda: plan_forget(depot, (), refs, Rules(), NOW)):
        with pytest.raises(DamagedError, match=r"pins\.json"):
            act()
    (depot.root / "pins.json").write_text('{"format": 2}')
    with pytest.raises(DamagedError, match="format 2, expected 1"):
        forget(depot, refs)
    assert listed(depot) == refs


class CutError(Exception):
    """The power is gone."""


def cut_after(count: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Let ``count`` changes to the depot happen; the next one does not. How many were asked for."""
    seen = 0

    def counted(real: Callable[..., object]) -> Callable[..., object]:
        def act(*arguments: object, **named: object) -> object:
            nonlocal seen
            seen += 1
            if seen > count:
                raise CutError
            return real(*arguments, **named)

        return act

    monkeypatch.setattr(LocalDepot, "write", counted(LocalDepot.write))
    monkeypatch.setattr(Path, "unlink", counted(Path.unlink))
    return lambda: seen


def test_cut_anywhere_what_can_be_chosen_is_whole(
    depot: LocalDepot, refs: list[ImageRef], monkeypatch: pytest.MonkeyPatch
) -> None:
    trust = trusted_keys(depot)
    for count in range(20):
        with monkeypatch.context() as patch:
            asked = cut_after(count, patch)
            try:
                forget(depot, refs[1:])
                done = True
            except CutError:
                done = False
        for ref in (*listed(depot), *stored_images(depot)):
            assert find_image(depot, trust, ref).manifest.ref == ref, f"after {count} changes"
        assert find_image(depot, trust, ImageRef("web-1")).manifest.ref in (refs[0], refs[2])
        if done:
            break
    assert done and asked() == count == 5, "catalogue, two manifests, two signatures; prune marks the rest"
    assert list(known_images(depot)) == listed(depot) == refs[:1]


def test_forgetting_that_was_cut_is_finished_by_naming_the_image_again(
    depot: LocalDepot, refs: list[ImageRef], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(CutError):
        cut_after(1, patch)
        forget(depot, refs[:1])
    assert refs[0] not in listed(depot) and refs[0] in stored_images(depot)
    assert not plan_forget(depot, (), refs[:1], Rules(), NOW)[0].keep
    forget(depot, refs[:1])
    assert not (depot.root / image_path("web-1", TIMES[0])).exists()


def test_an_image_whose_manifest_is_damaged_can_go(depot: LocalDepot, refs: list[ImageRef]) -> None:
    (depot.root / image_path("web-1", TIMES[2])).write_text("{")
    forget(depot, [refs[2]])
    assert listed(depot) == list(stored_images(depot)) == refs[:2]


def queue(depot: LocalDepot, *images: str) -> tuple[Database, Job]:
    """Jobs in the database that this user's server would have for the depot; the database, and the first of them."""
    folder = state_folder(depot.id)
    folder.mkdir(parents=True, exist_ok=True)
    database = Database(f"sqlite:///{folder / DATABASE_FILE}")
    jobs = Jobs(database, HeldKeys(folder / "keys"))
    made = [jobs.create(JobRequest(match=JobMatch(any=True), image=image))[0] for image in images]
    return database, made[0]


def test_an_image_that_a_job_waits_for_stays_until_the_job_has_ended(depot: LocalDepot, refs: list[ImageRef]) -> None:
    database, job = queue(depot, str(refs[0]), "no-such-machine")
    verdicts = plan_forget(depot, (), (), Rules(last=1), NOW)
    assert [each.image for each in verdicts if not each.keep] == [refs[1]]
    assert verdicts[-1].reasons == (f"job {job.id} waits for it",)
    with pytest.raises(RefusedError, match=rf"{refs[0]} is not removed: job {job.id} waits for it \(let the job end"):
        plan_forget(depot, (), [refs[0]], Rules(), NOW)
    with pytest.raises(RefusedError, match="waits for it"):
        forget(depot, refs[:2])
    assert listed(depot) == refs
    for state in State:
        with database.transaction() as session:
            session.execute(update(AttemptRow).values(state=state))
        kept = plan_forget(depot, (), (), Rules(last=1), NOW)[-1].keep
        assert kept is (state in (State.QUEUED, State.CLAIMED, State.RUNNING)), state
    forget(depot, refs[:2])
    assert listed(depot) == refs[2:]


def test_a_job_that_names_a_machine_waits_for_its_newest_image(depot: LocalDepot, refs: list[ImageRef]) -> None:
    queue(depot, refs[0].machine)
    with pytest.raises(RefusedError, match=rf"{refs[2]} is not removed"):
        plan_forget(depot, (), [refs[2]], Rules(), NOW)


def test_where_the_jobs_cannot_be_read_nothing_is_removed(depot: LocalDepot, refs: list[ImageRef]) -> None:
    folder = state_folder(depot.id)
    folder.mkdir(parents=True)
    (folder / DATABASE_FILE).write_bytes(b"no database" * 100)
    with pytest.raises(DamagedError, match=r"which images jobs wait for is not known: .*state\.sqlite"):
        plan_forget(depot, (), (), Rules(last=1), NOW)
    assert listed(depot) == refs
