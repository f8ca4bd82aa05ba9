"""What decoding a document raises that someone else wrote: catch `UNDECODABLE`, and refuse the document by its name.

The decoder has an error of its own for most faults, but not for bytes that are no UTF-8 or lists in lists without end.
"""

from __future__ import annotations

import msgspec

UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
