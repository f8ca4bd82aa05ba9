"""The server's own state: targets seen, jobs, their attempts, events and reports. Attempts are only ever added."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import ForeignKey, LargeBinary, UniqueConstraint, create_engine, event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

BUSY_TIMEOUT_MS = 10_000


class Base(DeclarativeBase):
    pass


class TargetRow(Base):
    """What a machine said it is. Its bytes are kept as they came."""

    __tablename__ = "targets"
    id: Mapped[int] = mapped_column(primary_key=True)
    sha256: Mapped[str] = mapped_column(unique=True)
    machine: Mapped[str]
    time: Mapped[str]
    first_seen: Mapped[str]
    last_seen: Mapped[str]
    vendor: Mapped[str]
    product: Mapped[str]
    system_uuid: Mapped[str]  # normalised; "" when it is a placeholder
    system_serial: Mapped[str]  # in lower case, likewise
    macs: Mapped[str]  # separated by blanks
    xml: Mapped[bytes] = mapped_column(LargeBinary, deferred=True)


class JobRow(Base):
    __tablename__ = "jobs"
    id: Mapped[str] = mapped_column(primary_key=True)
    created: Mapped[str]
    idempotency_key: Mapped[str | None] = mapped_column(unique=True)
    match_kind: Mapped[str]
    match_value: Mapped[str]
    image: Mapped[str]
    disk: Mapped[str]
    mode: Mapped[str]
    on_success: Mapped[str]


class JobCardsRow(Base):
    """What a job says about network cards; jobs of older servers have none."""

    __tablename__ = "job_cards"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    nic: Mapped[str]  # OLD=NEW, separated by blanks
    on_nic_tie: Mapped[str]


class JobLayoutRow(Base):
    """What a job says of the layout beyond one disk, where it does; a table of its own, so that old databases serve."""

    __tablename__ = "job_layouts"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    body: Mapped[bytes] = mapped_column(LargeBinary)  # JSON: also, map, grow


class AttemptRow(Base):
    """One try of a job. ``ended`` is set exactly when ``state`` is done or failed."""

    __tablename__ = "attempts"
    __table_args__ = (UniqueConstraint("job_id", "number"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    number: Mapped[int]
    idempotency_key: Mapped[str | None] = mapped_column(unique=True)
    state: Mapped[str] = mapped_column(index=True)
    created: Mapped[str]
    claimed: Mapped[str] = mapped_column(default="")
    started: Mapped[str] = mapped_column(default="")
    ended: Mapped[str] = mapped_column(default="")
    last_seen: Mapped[str] = mapped_column(default="")
    phase: Mapped[str] = mapped_column(default="")
    done: Mapped[int] = mapped_column(default=0)
    total: Mapped[int] = mapped_column(default=0)
    unit: Mapped[str] = mapped_column(default="")
    message: Mapped[str] = mapped_column(default="")
    error_code: Mapped[str] = mapped_column(default="")
    target_id: Mapped[int | None] = mapped_column(ForeignKey("targets.id"), default=None)
    secret_sha256: Mapped[str] = mapped_column(default="")


class EventRow(Base):
    __tablename__ = "events"
    attempt_id: Mapped[int] = mapped_column(ForeignKey("attempts.id"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    kind: Mapped[str]
    body: Mapped[bytes] = mapped_column(LargeBinary)


class ReportRow(Base):
    __tablename__ = "reports"
    attempt_id: Mapped[int] = mapped_column(ForeignKey("attempts.id"), primary_key=True)
    received: Mapped[str]
    body: Mapped[bytes] = mapped_column(LargeBinary)


class Database:
    """Sessions on one engine; tables are made where they are missing."""

    def __init__(self, url: str) -> None:
        self._engine = create_engine(url)
        if self._engine.dialect.name == "sqlite":
            _tune_sqlite(self._engine)
        Base.metadata.create_all(self._engine)

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """Everything inside happens, or nothing."""
        with Session(self._engine, expire_on_commit=False) as session, session.begin():
            yield session

    def close(self) -> None:
        self._engine.dispose()


def _tune_sqlite(engine: Engine) -> None:
    """WAL with full syncs; writers queue at BEGIN instead of failing when they turn from reading to writing."""

    @event.listens_for(engine, "connect")
    def connect(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"busy_timeout={BUSY_TIMEOUT_MS}"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
