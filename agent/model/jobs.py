"""What the server and the agents say to each other about restores. Format of record: docs/server.md.

queued ──claim──► claimed ──first event──► running ──report──► done
                     └────────────────────────┴───report or result event──► failed

A job that is done or failed is never handed out again. A person may queue it once more: that is a new attempt,
and the evidence of the old one stays.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from agent.model.luks_keys import LuksKey


class State(StrEnum):
    QUEUED = "queued"
    CLAIMED = "claimed"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


ENDED = (State.DONE, State.FAILED)
MODES = ("restore", "clone")
ON_SUCCESS = ("", "reboot", "poweroff", "hold", "shell")  # "": as the medium's configuration says


class JobMatch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which machine a job is for; exactly one of these."""

    system_uuid: str = ""
    system_serial: str = ""
    mac: str = ""
    any: bool = False  # the next machine that asks


class JobRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    match: JobMatch
    image: str  # NAME or NAME@TIME
    disk: str = "only-eligible"
    mode: str = "restore"
    on_success: str = ""
    nic: tuple[str, ...] = ()  # OLD=NEW, as regraft restore --nic; (): the medium's
    on_nic_tie: str = ""  # stop, order; "": as the medium's configuration says
    also: tuple[str, ...] = ()  # selectors of further disks that are erased and written: never the medium's
    map: tuple[str, ...] = ()  # WHAT=SELECTOR: which of these disks a disk or volume goes to; (): the medium's
    grow: str = ""  # who gets the space of a larger disk; "": as the medium's configuration says
    arrays: str = ""  # md RAID on one disk: plain, keep; "": as the medium's configuration says
    edits: str = ""  # text of an operator's edits, as regraft restore --edits reads it; "": the medium's
    luks_keys: tuple[LuksKey, ...] = ()  # held back: no answer shows them but the one to the machine that claimed


class JobLayout(msgspec.Struct, frozen=True, kw_only=True):
    """What a job says of the layout and of the plan; see JobRequest. ``keyed``: it was made with keys."""

    also: tuple[str, ...] = ()
    map: tuple[str, ...] = ()
    grow: str = ""
    arrays: str = ""
    edits: str = ""
    keyed: bool = False


class NewAttempt(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What goes with queueing a job again: its keys are gone since it ended."""

    luks_keys: tuple[LuksKey, ...] = ()


class JobKeys(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to the machine that claimed a job, and to nobody else."""

    luks_keys: tuple[LuksKey, ...] = ()


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A job as the server tells it, with the state of its newest attempt. Times are "" until they happened."""

    id: str
    state: State
    match: JobMatch
    image: str  # NAME@TIME: fixed when the job was made
    disk: str
    mode: str
    on_success: str
    attempt: int
    created: str
    claimed: str = ""
    started: str = ""
    ended: str = ""
    last_seen: str = ""  # last sign of life of the agent
    phase: str = ""
    done: int = 0
    total: int = 0
    unit: str = ""
    message: str = ""  # the last thing said: of a failed job its cause
    error_code: str = ""
    target: int = 0  # the target record that claimed it; 0 before
    has_report: bool = False
    nic: tuple[str, ...] = ()
    on_nic_tie: str = ""
    also: tuple[str, ...] = ()
    map: tuple[str, ...] = ()
    grow: str = ""
    arrays: str = ""
    edits: str = ""
    luks_keys: str = ""  # held, gone since it ended, or "": made without


class Claim(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An agent takes a job. It chooses the secret itself, so that a claim whose answer got lost can be repeated."""

    target: int
    secret: str


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    image: str
    machine: str
    score: int
    reasons: tuple[str, ...] = ()


class ProfileKey(msgspec.Struct, frozen=True, kw_only=True):
    machine: str
    time: str


class TargetAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What the server says to a machine that told what it is."""

    decision: str  # job, match, candidates
    target: int  # number of the record that the server keeps of this target
    profile: ProfileKey
    job: Job | None = None
    image: str = ""
    reason: str = ""
    candidates: tuple[Candidate, ...] = ()


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """RFC 9457; ``code`` is that of an error in agent.errors."""

    type: str = "about:blank"
    title: str = ""
    status: int = 0
    code: str = ""
    detail: str = ""
    hint: str = ""
