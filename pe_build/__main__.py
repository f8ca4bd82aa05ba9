"""python -m pe_build: errors become a message, a hint and an exit code here."""

from __future__ import annotations

import sys

from agent.errors import RegraftError
from pe_build.cli import parse


def main() -> None:
    order = parse(sys.argv[1:])
    try:
        order()
    except RegraftError as error:
        print(f"pe_build: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"  next: {error.hint}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
