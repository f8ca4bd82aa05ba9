"""Whether the components of a depot are whole: documents, signatures, payload."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from agent.depot.catalogue import ComponentFacts, read_catalogue
from agent.depot.component_xml import LIMIT_BYTES, SAFE_NAME, load_component
from agent.depot.fetch import BLOCK_BYTES, is_whole_length
from agent.depot.signing import COMPONENT, TrustedKeys, read_signed
from agent.depot.store import CATALOGUE_FILE, Depot
from agent.errors import DamagedError, NotTrustedError
from agent.model.image import ComponentFile


def component_problems(depot: Depot, keys: TrustedKeys, digests: bool) -> Iterator[tuple[str, str]]:
    """(path, what is wrong) of every component that is not right. ``digests``: read the payload, too."""
    for facts in read_catalogue(depot).components:
        if not SAFE_NAME.fullmatch(facts.id) or not SAFE_NAME.fullmatch(facts.version):
            yield CATALOGUE_FILE, f"names a component ‘{facts.id}’ of version ‘{facts.version}’"
            continue
        folder = f"components/{facts.id}/{facts.version}"
        try:
            files = _payload(depot, keys, facts, f"{folder}/component.xml")
        except FileNotFoundError:
            yield f"{folder}/component.xml", "is absent"
            continue
        except (DamagedError, NotTrustedError) as error:
            yield f"{folder}/component.xml", error.message
            continue
        for file in files:
            problem = _file_problem(depot, f"{folder}/{file.path}", file, digests)
            if problem:
                yield f"{folder}/{file.path}", problem


def _payload(depot: Depot, keys: TrustedKeys, facts: ComponentFacts, path: str) -> tuple[ComponentFile, ...]:
    data = read_signed(depot, keys, COMPONENT, path, LIMIT_BYTES)
    found = hashlib.sha256(data).hexdigest()
    if found != facts.sha256:
        raise DamagedError(f"{path} has SHA-256 {found}, {CATALOGUE_FILE} names {facts.sha256}")
    return load_component(data).payload


def _file_problem(depot: Depot, path: str, file: ComponentFile, digests: bool) -> str:
    if not depot.exists(path):
        return "is absent"
    if not is_whole_length(depot, path, file.size_bytes):
        return f"does not have the {file.size_bytes:,} bytes that its document names"
    if not digests:
        return ""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(min(BLOCK_BYTES, max(1, file.size_bytes))))
    for offset in range(0, file.size_bytes, BLOCK_BYTES):
        view = buffer[: min(BLOCK_BYTES, file.size_bytes - offset)]
        depot.read_into(path, offset, view)
        digest.update(view)
    if digest.hexdigest() != file.sha256:
        return f"has SHA-256 {digest.hexdigest()}, its document names {file.sha256}"
    return ""
