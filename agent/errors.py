"""One tree of errors; each class has a stable exit code.

RegraftError
├── UnexpectedError          1   a bug, or something we had no name for
├── UsageError               2   wrong words, wrong configuration
├── WarningsError            3   finished, but a person must look
├── NoImageError            10   no image, no assignment, no such profile
├── DiskSelectionError      11   target disk not found or not unique
├── RefusedError            12   refused: guarded, no consent, blocked by the difference
├── DoesNotFitError         13   the layout, memory or sector size does not fit
├── NicSelectionError       14   several network cards fit an interface equally well
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
    """An error that a person can act on: what is wrong (found against expected), and the next act.

    Where the place that raises it knows nothing better, the next act is the usual one for errors of its kind.
    """

    exit_code = 1
    code = "unexpected"
    usual_act = ""
    result: object = None  # what the command found before it failed; programs get both in one document

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint or self.usual_act

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class UnexpectedError(RegraftError):
    exit_code, code = 1, "unexpected"


class UsageError(RegraftError):
    exit_code, code = 2, "usage"
    usual_act = "‘regraft COMMAND --help’ tells what is expected"


class WarningsError(RegraftError):
    exit_code, code = 3, "warnings"
    usual_act = "read what is listed, and decide whether it matters"


class NoImageError(RegraftError):
    exit_code, code = 10, "no-image"
    usual_act = "list the images with ‘regraft images’"


class DiskSelectionError(RegraftError):
    exit_code, code = 11, "disk-selection"
    usual_act = "name one disk by serial=, wwn= or path="


class RefusedError(RegraftError):
    exit_code, code = 12, "refused"
    usual_act = "put the reason out of the way, then start again"


class DoesNotFitError(RegraftError):
    exit_code, code = 13, "does-not-fit"
    usual_act = "choose another disk or another machine"


class NicSelectionError(RegraftError):
    exit_code, code = 14, "nic-selection"
    usual_act = "name the card by --nic OLD=NEW-MAC, or take the first one by --on-nic-tie order"


class UnreachableError(RegraftError):
    exit_code, code = 20, "unreachable"
    usual_act = "check network, address and server, then start again"


class NotTrustedError(RegraftError):
    exit_code, code = 21, "not-trusted"
    usual_act = "check the key given with --trust, and where the files come from"


class DamagedError(RegraftError):
    exit_code, code = 22, "damaged"
    usual_act = "use another copy of it, or an older image"


class NotAllowedError(RegraftError):
    exit_code, code = 23, "not-allowed"
    usual_act = "give a token of the right role with --token"


class TargetIOError(RegraftError):
    exit_code, code = 30, "target-io"
    usual_act = "check the disk and its cable, or take another disk"


class ReadBackError(RegraftError):
    exit_code, code = 31, "read-back"
    usual_act = "replace the disk, its cable or the machine's memory"


class PatchError(RegraftError):
    exit_code, code = 32, "patch"
    usual_act = "read the report; choose another image, or report the recipe"


class StorageFullError(RegraftError):
    exit_code, code = 40, "storage-full"
    usual_act = "make room in the depot"


class TemporaryError(RegraftError):
    exit_code, code = 75, "temporary"
    usual_act = "try again later"


class StoppedError(RegraftError):
    """Stopped by a person before anything was written."""

    exit_code, code = 130, "stopped"
    usual_act = "start again when you are ready"


class StoppedAfterWritesError(RegraftError):
    """Stopped after writes began: the disk does not boot, the same plan continues the work."""

    exit_code, code = 131, "stopped-after-writes"
    usual_act = "start the same restore again, it continues"
