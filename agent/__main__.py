"""The program's one exit: errors become a message, a hint and a stable exit code here and nowhere else."""

from __future__ import annotations

import multiprocessing
import sys
import traceback

import click
import msgspec

from agent.cli import cli
from agent.errors import RegraftError, UnexpectedError, UsageError


def main() -> None:
    """Entry point of ``regraft``."""
    multiprocessing.freeze_support()
    try:
        # Without its standalone mode click returns what a command ended with, where that was not the usual way.
        status = cli.main(prog_name="regraft", standalone_mode=False)
        sys.exit(status if isinstance(status, int) else 0)
    except click.Abort:
        sys.exit(_tell("stopped", "stopped before anything was written", "", 130))
    except click.ClickException as wrong:
        wrong.show()
        _tell_programs("usage", wrong.format_message(), UsageError.usual_act, UsageError.exit_code)
        sys.exit(UsageError.exit_code)
    except KeyboardInterrupt:
        sys.exit(_tell("stopped", "stopped before anything was written", "", 130))
    except RegraftError as error:
        sys.exit(_tell(error.code, error.message, error.hint, error.exit_code, error.result))
    except OSError as error:
        if not error.filename:
            traceback.print_exc()
        sys.exit(_tell("unexpected", str(error), "check that this place is there, and that you may use it", 1))
    except Exception as error:
        traceback.print_exc()
        bug = UnexpectedError(f"{type(error).__name__}: {error}", "this is a bug; keep the lines above for its report")
        sys.exit(_tell(bug.code, bug.message, bug.hint, bug.exit_code))


def _tell(code: str, message: str, hint: str, exit_code: int, result: object = None) -> int:
    """Say what went wrong, for people on stderr and, with --json, for programs on stdout."""
    print(f"regraft: {message}", file=sys.stderr)
    if hint:
        print(f"  next: {hint}", file=sys.stderr)
    _tell_programs(code, message, hint, exit_code, result)
    return exit_code


def _tell_programs(code: str, message: str, hint: str, exit_code: int, result: object = None) -> None:
    """One document: the error, and what was found before it where there is something."""
    if "--json" in sys.argv:
        told: dict[str, object] = {"error": {"code": code, "message": message, "hint": hint, "exit_code": exit_code}}
        if result is not None:
            told["result"] = result
        print(msgspec.json.encode(told).decode())


if __name__ == "__main__":
    main()
