"""Rehearsals on the server: whether each known machine could be restored now, told before somebody needs it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.model.jobs import Job, JobMatch, State
from agent.model.profile_xml import dump_profile
from agent.server.api import Services
from agent.server.auth import Role
from agent.server.rehearsals import words_of
from tests.commands.system import machine, publish_machine
from tests.server.conftest import Server, make_profile, make_server

pytestmark = pytest.mark.tools
PATIENCE_S = 60


def services(server: Server) -> Services:
    found: Services = server.client.app.state.services  # type: ignore[attr-defined]
    return found


def listed(server: Server) -> list[dict[str, Any]]:
    answer = server.client.get("/api/v1/rehearsals", headers=server.headers(Role.READ))
    assert answer.status_code == 200
    found: list[dict[str, Any]] = answer.json()
    return found


@pytest.fixture
def published(server: Server, tmp_path: Path) -> Server:
    """A depot with the image of a virtual machine that has one disk."""
    publish_machine(server.depot.root, tmp_path)
    return server


def test_a_target_without_a_driver_is_red_and_says_why(published: Server) -> None:
    """The own machine is not red; other hardware of the same serial number lacks a driver for its disk's controller."""
    own, other = machine("qemu-i440fx-virtio-bios-debian"), machine("qemu-q35-ovmf-nvme-e1000e")
    platform = replace(other.platform, system_uuid=own.platform.system_uuid, system_serial=own.platform.system_serial)
    moved = replace(other, machine="moved", platform=platform, disks=other.disks[:1])
    answer = published.client.post(
        "/api/v1/targets", content=dump_profile(moved), headers=published.headers(Role.AGENT)
    )
    assert answer.status_code == 200
    services(published).rehearsals.rehearse_all()
    (told,) = listed(published)
    assert told["target"].startswith("moved@") and told["image"].startswith("web1@")
    assert (told["light"], told["exit_code"]) == ("red", 12)
    assert "nvme" in told["message"]
    report = published.client.get(f"/api/v1/rehearsals/{told['id']}/report", headers=published.headers(Role.READ))
    assert report.json()["result"] == "would-stop"
    page = published.client.get("/ui/rehearsals", headers=published.headers(Role.READ)).text
    assert "✘ red" in page and "nvme" in page and f"/ui/rehearsals/{told['id']}" in page
    assert (
        "regraft component add"
        in published.client.get(f"/ui/rehearsals/{told['id']}", headers=published.headers(Role.READ)).text
    )


def test_the_same_is_not_rehearsed_twice_and_what_is_new_is(published: Server) -> None:
    rehearsals = services(published).rehearsals
    rehearsals.rehearse_all()
    (first,) = listed(published)
    assert first["light"] != "red" and first["exit_code"] == 0, first
    rehearsals.rehearse_all()
    assert listed(published) == [first]
    later = replace(machine("qemu-i440fx-virtio-bios-debian"), time="2027-01-01T00:00:00Z")
    published.depot.publish_profile(dump_profile(later))
    rehearsals.rehearse_all()
    (second,) = listed(published)
    assert second["id"] == first["id"] and second["rehearsed"] > first["rehearsed"]


def test_a_machine_that_nothing_is_like_is_told_so(published: Server) -> None:
    stranger = make_profile("stranger", uuid="", serial="", mac="52:54:00:99:99:99")
    published.client.post("/api/v1/targets", content=dump_profile(stranger), headers=published.headers(Role.AGENT))
    services(published).rehearsals.rehearse_all()
    told = next(each for each in listed(published) if each["target"].startswith("stranger@"))
    assert (told["light"], told["image"], told["has_report"]) == ("amber", "", False)
    assert "no image of the depot" in told["message"]


def test_a_disk_that_is_not_unique_is_red_without_a_report(published: Server) -> None:
    own = machine("qemu-i440fx-virtio-bios-debian")
    two = replace(own, time="2027-01-01T00:00:00Z", disks=(*own.disks, replace(own.disks[0], name="vdb", serial="S9")))
    published.client.post("/api/v1/targets", content=dump_profile(two), headers=published.headers(Role.AGENT))
    services(published).rehearsals.rehearse_all()
    (told,) = listed(published)
    assert (told["light"], told["exit_code"], told["has_report"]) == ("red", 11, False)
    assert "disk" in told["message"]


def test_what_a_queued_job_says_of_disks_counts(published: Server) -> None:
    """Two disks that could be it, and the job tells which; its edits are read as the restore would read them."""
    own = machine("qemu-i440fx-virtio-bios-debian")
    two = replace(own, time="2027-01-01T00:00:00Z", disks=(*own.disks, replace(own.disks[0], name="vdb", serial="S9")))
    published.client.post("/api/v1/targets", content=dump_profile(two), headers=published.headers(Role.AGENT))

    def queued(**more: str) -> dict[str, Any]:
        body = {"match": {"system_uuid": own.platform.system_uuid}, "image": "web1", "disk": "serial=S9", **more}
        answer = published.client.post("/api/v1/jobs", json=body, headers=published.headers(Role.WRITE))
        assert answer.status_code == 201, answer.text
        services(published).rehearsals.rehearse_all()
        (told,) = listed(published)
        cancel = f"/api/v1/jobs/{answer.json()['id']}/cancel"
        cancelled = published.client.post(cancel, headers=published.headers(Role.WRITE))
        assert cancelled.status_code < 300, cancelled.text
        return told

    told = queued()
    assert (told["exit_code"], told["has_report"]) == (0, True) and told["why"].startswith("job ")
    report = published.client.get(f"/api/v1/rehearsals/{told['id']}/report", headers=published.headers(Role.READ))
    assert "S9" in report.text
    wrong = queued(edits='[nics]\nens99 = "52:54:00:00:00:01"\n')
    assert (wrong["light"], wrong["exit_code"]) == ("red", 2) and "ens99" in wrong["message"], wrong


@pytest.mark.parametrize(
    "where", [{"disk": "serial=\0"}, {"also": ["serial=\0"]}, {"map": ["/=serial=\0"]}, {"nic": ["\0=none"]}]
)
def test_a_job_with_what_no_program_can_be_told_is_refused(published: Server, where: dict[str, Any]) -> None:
    """A NUL would end the rehearsals: words of a program have none."""
    body = {"match": {"mac": "52:54:00:00:00:01"}, "image": "web1", "disk": "serial=S9", **where}
    answer = published.client.post("/api/v1/jobs", json=body, headers=published.headers(Role.WRITE))
    assert answer.status_code == 422 and "NUL" in answer.text


def test_a_job_in_the_words_of_the_command() -> None:
    job = Job(
        id="1", state=State.QUEUED, match=JobMatch(any=True), image="web1@1", disk="serial=S1", mode="clone",
        on_success="", attempt=1, created="", also=("serial=S2", "serial=S3"), map=("/srv=serial=S2",), grow="none",
        arrays="keep", nic=("ens3=none",), on_nic_tie="order",
    )  # fmt: skip
    assert words_of(job) == [
        "--disk=serial=S1", "--disk=serial=S2", "--disk=serial=S3", "--map=/srv=serial=S2", "--nic=ens3=none",
        "--mode=clone", "--grow=none", "--arrays=keep", "--on-nic-tie=order",
    ]  # fmt: skip


@pytest.fixture
def rehearsing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    yield from make_server(tmp_path, monkeypatch, rehearse=True)


def test_what_arrives_is_rehearsed_by_itself_if_so_configured(rehearsing: Server, tmp_path: Path) -> None:
    publish_machine(rehearsing.depot.root, tmp_path)
    own = machine("qemu-i440fx-virtio-bios-debian")
    rehearsing.client.post("/api/v1/targets", content=dump_profile(own), headers=rehearsing.headers(Role.AGENT))
    deadline = time.monotonic() + PATIENCE_S
    while not listed(rehearsing):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    (told,) = listed(rehearsing)
    assert told["exit_code"] == 0


def test_nothing_is_rehearsed_unless_asked(published: Server) -> None:
    own = machine("qemu-i440fx-virtio-bios-debian")
    published.client.post("/api/v1/targets", content=dump_profile(own), headers=published.headers(Role.AGENT))
    assert not services(published).rehearsals._wanted.is_set() and listed(published) == []
    assert "--rehearse" in published.client.get("/ui/rehearsals", headers=published.headers(Role.READ)).text
    answer = published.client.get("/api/v1/rehearsals/..%2Ftokens/report", headers=published.headers(Role.READ))
    assert answer.status_code == 404
    answer = published.client.post("/api/v1/rehearsals", headers=published.headers(Role.READ))
    assert answer.status_code == 403
