"""What images cost: counted here again, from the packs' own tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.depot.forget import forget
from agent.depot.local import LocalDepot
from agent.depot.prune import prune
from agent.depot.store import listing_path
from agent.depot.stored import stored_objects
from agent.errors import DamagedError
from agent.image import pack
from agent.image.listing import open_listing
from agent.image.pack import TRAILER, read_table
from agent.image.usage import DepotUse, measure
from tests.image.source_tree import Carried, carry, plain_tree, random_bytes

pytestmark = pytest.mark.root
Place = tuple[str, int, int]  # pack, offset, stored bytes


@pytest.fixture
def three(depot: LocalDepot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Carried]:
    """Files come and go between the images; packs of 1 MiB."""
    monkeypatch.setattr(pack, "PACK_BYTES", 1 << 20)
    tree = tmp_path / "source"
    plain_tree(tree)
    (tree / "early").write_bytes(random_bytes((3 << 20) + 7))
    found = [carry(tree, depot)]
    for name in ("second", "third"):
        (tree / name).write_bytes(random_bytes(300_000 + len(name)))
        (tree / "early").unlink(missing_ok=True)
        found.append(carry(tree, depot, previous=found[-1].loaded))
    return found


def places(one: Carried) -> set[Place]:
    """The frames that the chunks of an image lie in."""
    found: set[Place] = set()
    for volume in one.loaded.manifest.volumes:
        with open_listing(one.depot, one.loaded.manifest, volume) as listing:
            for entries in listing.entries():
                for chunk in (chunk for entry in entries for chunk in entry.chunks):
                    frame = listing.frames.get(chunk.frame)
                    assert frame is not None
                    found.add((listing.frames.packs[frame.pack], frame.offset, frame.stored))
    return found


def measured(carried: list[Carried]) -> DepotUse:
    return measure(carried[0].depot, (one.loaded.manifest for one in carried))


def test_each_image_and_the_whole(three: list[Carried]) -> None:
    use = measured(three)
    all_places = [places(one) for one in three]
    packs = [{pack for pack, _, _ in each} for each in all_places]
    sizes = {pack.sha256: pack.size_bytes for one in three for pack in one.loaded.manifest.packs}
    for number, image in enumerate(use.images):
        others = set().union(*(each for other, each in enumerate(all_places) if other != number))
        other_packs = set().union(*(each for other, each in enumerate(packs) if other != number))
        assert image.image == three[number].loaded.manifest.ref
        assert image.stored_bytes == sum(stored for _, _, stored in all_places[number])
        assert image.alone_bytes == sum(stored for _, _, stored in all_places[number] - others)
        assert image.freed_bytes == sum(sizes[pack] for pack in packs[number] - other_packs)
    assert use.images[0].alone_bytes > 1 << 20 and use.images[1].alone_bytes < 10_000
    assert use.images[2].alone_bytes > 290_000
    assert use.live_bytes == sum(stored for _, _, stored in set().union(*all_places))
    assert (use.dead_bytes, use.partly_used) == (0, 0)
    assert use.pack_bytes + use.listing_bytes == sum(stored_objects(three[0].depot).values())
    assert use.content_bytes == sum(one.result.content_bytes for one in three)


def test_what_a_forgotten_image_leaves_is_freed_or_dead(three: list[Carried]) -> None:
    """Pruning gives back what was foretold; the rest of what it used alone is dead in packs that others need."""
    depot = three[0].depot
    before = measured(three)
    forget(depot, [three[0].loaded.manifest.ref])
    gone = sum(due.size_bytes for due in prune(depot, 0).sweep.delete if due.path.startswith("packs/"))
    assert gone == before.images[0].freed_bytes
    after = measured(three[1:])
    dead = 0
    live = set().union(*(places(one) for one in three[1:]))
    for path, size in stored_objects(depot).items():
        if path.startswith("packs/"):
            pack = next(each for one in three for each in one.loaded.manifest.packs if each.sha256 in path)
            frames, _ = read_table(depot, pack)
            dead += sum(f.stored for f in frames if (pack.sha256, f.offset, f.stored) not in live)
            assert sum(f.stored for f in frames) < size - TRAILER.size
    assert after.dead_bytes == dead and after.partly_used == (dead > 0)
    assert gone + dead >= before.images[0].alone_bytes


def test_a_depot_that_is_damaged_is_not_guessed_about(three: list[Carried]) -> None:
    depot = three[0].depot
    (depot.root / listing_path(three[0].loaded.manifest.volumes[0].listing.sha256)).unlink()
    with pytest.raises(DamagedError, match="is absent"):
        measured(three)


def test_an_empty_depot() -> None:
    assert measure(LocalDepot("/nonexistent"), ()) == DepotUse((), 0, 0, 0, 0, 0, 0)
