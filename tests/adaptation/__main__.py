"""python -m tests.adaptation: makes docs/adaptation.md of the rows, the recipes and the tests' marks."""

from __future__ import annotations

import sys

from tests.adaptation.checklist import TESTS, ChecklistError, faults, here
from tests.adaptation.page import page

PAGE = TESTS.parent / "docs/adaptation.md"


def main() -> None:
    try:
        groups = here()
    except ChecklistError as error:
        sys.exit(str(error))
    PAGE.write_text(page(groups))
    for fault in faults(groups):
        print(fault, file=sys.stderr)
    rows = [row for group in groups for row in group.rows]
    print(f"{PAGE}: {len(rows)} rows, {sum(row.handled for row in rows)} met")


if __name__ == "__main__":
    main()
