"""One tree of errors; each class has a stable exit code.

RegraftError
├── UnexpectedError          1   a bug, or something we had no name for
├── UsageError               2   wrong words, wrong configuration
├── WarningsError            3   finished, but a person must look
├── NoImageError            10   no image, no assignment, no such profile
├── DiskSelectionError      11   target disk not found or not unique
├── RefusedError            12   refused: guarded, no consent, blocked by the difference
├── DoesNotFitError         13   the layout, memory or sector size does not fit
├── UnreachableError        20   depot or server cannot be reached
├── NotTrustedError         21   signature, certificate or key is not trusted
├── DamagedError            22   data does not match its digest or its format
├── NotAllowedError         23   the server does not allow it
├── TargetIOError           30   the target disk failed
├── ReadBackError           31   what was read back differs from what was written
├── PatchError              32   an adaptation or its check failed
├── StorageFullError        40   the depot has no room
├── TemporaryError          75   try again later
├── StoppedError           130   stopped before any write
└── StoppedAfterWritesError 131  stopped after writes began: the disk does not boot, the same plan continues
"""

from __future__ import annotations


class RegraftError(Exception):
    """An error that a person can act on: what is wrong (found against expected), and the next act."""

    exit_code = 1
    code = "unexpected"

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class UnexpectedError(RegraftError):
    exit_code, code = 1, "unexpected"


class UsageError(RegraftError):
    exit_code, code = 2, "usage"


class WarningsError(RegraftError):
    exit_code, code = 3, "warnings"


class NoImageError(RegraftError):
    exit_code, code = 10, "no-image"


class DiskSelectionError(RegraftError):
    exit_code, code = 11, "disk-selection"


class RefusedError(RegraftError):
    exit_code, code = 12, "refused"


class DoesNotFitError(RegraftError):
    exit_code, code = 13, "does-not-fit"


class UnreachableError(RegraftError):
    exit_code, code = 20, "unreachable"


class NotTrustedError(RegraftError):
    exit_code, code = 21, "not-trusted"


class DamagedError(RegraftError):
    exit_code, code = 22, "damaged"


class NotAllowedError(RegraftError):
    exit_code, code = 23, "not-allowed"


class TargetIOError(RegraftError):
    exit_code, code = 30, "target-io"


class ReadBackError(RegraftError):
    exit_code, code = 31, "read-back"


class PatchError(RegraftError):
    exit_code, code = 32, "patch"


class StorageFullError(RegraftError):
    exit_code, code = 40, "storage-full"


class TemporaryError(RegraftError):
    exit_code, code = 75, "temporary"


class StoppedError(RegraftError):
    """Stopped by a person before anything was written."""

    exit_code, code = 130, "stopped"


class StoppedAfterWritesError(RegraftError):
    """Stopped after writes began: the disk does not boot, the same plan continues the work."""

    exit_code, code = 131, "stopped-after-writes"
