"""The tests' own loop devices: gone when they say so, whoever looked at them meanwhile."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from agent.process import run
from tests.probe.loop import loop_disk

pytestmark = pytest.mark.root
TABLE = "label: gpt\nstart=2048, size=1048576, uuid=11111111-2222-4333-8444-000000000001\n"
UUID = "7c1d3f0e-9a52-4f57-8a51-3c7be1f0a6d2"


def test_a_disk_that_somebody_looks_at_is_waited_for(tmp_path: Path) -> None:
    """Else mkfs.btrfs finds the UUID of a file system that a test has taken away already."""
    size = 600 << 20
    with loop_disk(tmp_path / "one.img", size, TABLE) as disk:
        run(["mkfs.btrfs", "--quiet", "--uuid", UUID, disk.part(1)])
        held = [disk.node.open("rb"), disk.part(1).open("rb")]

        def let_go() -> None:
            time.sleep(0.4)
            for each in held:
                each.close()

        closing = threading.Thread(target=let_go)
        closing.start()
    closing.join()
    assert not Path("/sys/block", disk.name, "loop").exists() and not disk.part(1).exists()
    with loop_disk(tmp_path / "two.img", size, TABLE) as disk:
        run(["mkfs.btrfs", "--quiet", "--uuid", UUID, disk.part(1)])
