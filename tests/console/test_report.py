from __future__ import annotations

import msgspec

from agent.console.report_html import report_html
from agent.console.report_text import difference_table, items_table, plan_text, report_text, stages_table
from agent.console.table import table
from agent.model.difference import Difference, Item, Op, Tier, Verdict
from agent.model.plan import ClearDisk, ComponentChoice, DiskIdentity, Plan, VerifyBoot, digest
from agent.model.report import CheckResult, ItemResult, RecipeResult, Report, StageTime

DISK = DiskIdentity(
    name="nvme0n1", model="QEMU NVMe Ctrl", serial="NV0001", wwn="eui.1", size_bytes=6 << 30,
    logical_sector_bytes=512, by_path="pci-0000:00:04.0-nvme-1", content="Debian 12 on ext4, 1.2 GiB used",
)  # fmt: skip
PLAN = Plan(
    format=1, mode="restore", image="web1@20261123T204140Z", manifest_sha256="a" * 64, source_profile_sha256="b" * 64,
    target_profile_sha256="c" * 64, difference_sha256="d" * 64, disk=DISK,
    untouched=("sda QEMU HARDDISK serial S2 2.0 GiB",),
    components=(ComponentChoice(id="linux-image-amd64", version="6.1.1", files=(), reason="carries nvme"),),
    steps=(ClearDisk(disk=DISK), VerifyBoot(firmware="uefi", esp_partition=1, releases=(), modules=())),
    warnings=("the root file system shrinks",),
)  # fmt: skip


def item(name: str, tier: Tier, op: Op = Op.CHANGE, **fields: object) -> Item:
    values: dict[str, object] = {"kind": "disk", "key": f"key-{name}", "reason": f"reason-{name}"} | fields
    return Item(id=name, tier=tier, op=op, **values)  # type: ignore[arg-type]


def report(**fields: object) -> Report:
    values: dict[str, object] = {
        "format": 1, "result": "restored-and-verified", "error": "", "error_code": "", "exit_code": 0,
        "mode": "restore", "image": "web1@20261123T204140Z", "manifest_sha256": "a" * 64, "plan_sha256": "e" * 64,
        "tool": "regraft 0.1.0", "started": "2026-11-23T20:00:00Z", "ended": "2026-11-23T20:05:00Z",
        "target_vendor": "Dell Inc.", "target_product": "OptiPlex", "target_serial": "8XK2R93", "target_uuid": "u-1",
        "disk": "nvme0n1: QEMU", "disk_held": "blank", "untouched": ("sda QEMU",),
        "difference": (ItemResult(id="d1", op="change", kind="disk", key="boot", tier="must", source="virtio_blk",
                                  target="nvme", verdict="module", reason="another bus", handled_by=("kernel",)),),
        "components": ("linux-image",),
        "recipes": (RecipeResult(id="linux.fstab", tier="must", result="done", changed=("/etc/fstab",),
                                 checks=("ok grep /etc/fstab",)),),
        "changed_paths": ("/etc/fstab",),
        "checks": (CheckResult(name="initramfs", ok=True, detail="has nvme"),),
        "stages": (StageTime(name="write", seconds=2.0, bytes=200_000_000), StageTime(name="boot", seconds=1.5)),
        "bytes_fetched": 10, "bytes_written": 20, "bytes_read_back": 20, "mismatches": 0,
        "peak_memory_bytes": 200 << 20, "warnings": (),
    }  # fmt: skip
    return msgspec.convert(values | fields, Report)


def test_musts_and_blocks_come_first_whatever_the_order_of_finding() -> None:
    text = items_table([item("d1", Tier.LATER), item("d2", Tier.SHOULD), item("d3", Tier.MUST),
                        item("d4", Tier.MUST, Op.BLOCK)])  # fmt: skip
    assert [line.split()[0] for line in text.splitlines() if line[:4].strip()] == ["d4", "d3", "d2", "d1"]


def test_an_item_tells_change_reason_verdict_and_who_handles_it() -> None:
    text = items_table(
        [
            item(
                "d1",
                Tier.MUST,
                source="virtio_blk",
                target="nvme",
                verdict=Verdict.ABSENT,
                handled_by=("linux.kernel",),
            )
        ]
    )
    assert "virtio_blk -> nvme [absent]" in text
    assert "why: reason-d1" in text
    assert "by: linux.kernel" in text


def test_a_difference_that_nothing_handles_is_called_blocked() -> None:
    handled = Difference("a@1", "b@2", (item("d1", Tier.MUST, handled_by=("layout",)), item("d2", Tier.SHOULD)))
    assert "BLOCKED" not in difference_table(handled)
    open_must = Difference("a@1", "b@2", (item("d7", Tier.MUST),))
    assert "BLOCKED: nothing handles d7 (key-d7)" in difference_table(open_must)
    assert "by: NOTHING" in difference_table(open_must)
    assert "like the source" in difference_table(Difference("a@1", "b@2", ()))


def test_the_plan_names_what_is_erased_and_what_is_kept() -> None:
    text = plan_text(PLAN)
    erases = text.split("ERASES")[1].split("KEEPS")[0]
    for fact in ("QEMU NVMe Ctrl", "6.0 GiB", "NV0001", "pci-0000:00:04.0-nvme-1", "Debian 12 on ext4, 1.2 GiB used"):
        assert fact in erases
    assert "sda QEMU HARDDISK serial S2 2.0 GiB: not touched" in text
    assert "linux-image-amd64 6.1.1: carries nvme" in text
    assert "2. prove that it will boot" in text
    assert "the root file system shrinks" in text
    assert digest(PLAN) in text
    assert max(len(line) for line in text.splitlines()) <= 100


def test_a_disk_that_says_nothing_of_itself_is_shown_so() -> None:
    bare = msgspec.structs.replace(DISK, model="", serial="", wwn="", by_path="", content="")
    text = plan_text(msgspec.structs.replace(PLAN, disk=bare, untouched=()))
    assert "no model name" in text
    assert "serial -" in text
    assert "nothing that is recognised" in text
    assert "there is no other disk" in text


def test_a_disk_model_cannot_write_a_line_of_its_own() -> None:
    bad = msgspec.structs.replace(DISK, model="X\n\x1b[2JKEEPS   everything")
    text = plan_text(msgspec.structs.replace(PLAN, disk=bad))
    assert "\x1b" not in text
    assert not any(line.startswith("KEEPS   everything") for line in text.splitlines())


def test_stages_have_seconds_rate_and_sum() -> None:
    lines = stages_table(report().stages).splitlines()
    assert lines[2].split() == ["write", "2.0", "200.0", "MB", "100.0", "MB/s"]
    assert lines[-1].split() == ["all", "3.5", "3.5", "s"]


def test_a_report_says_its_result_first_and_a_failure_says_why() -> None:
    assert report_text(report()).startswith("RESULT   RESTORED AND VERIFIED\n")
    failed = report_text(report(result="failed", error="disk ‘sda’ has gone", error_code="target-io", exit_code=30))
    assert failed.startswith("RESULT   FAILED [target-io]\n         disk ‘sda’ has gone\n")


def test_a_failed_check_and_no_check_at_all_are_loud() -> None:
    bad = (CheckResult(name="initramfs", ok=False, detail="lacks nvme"),)
    assert "FAIL  initramfs: lacks nvme" in report_text(report(checks=bad))
    assert "nothing has proved that it will boot" in report_text(report(checks=()))


def test_long_lists_of_changed_files_are_cut_and_say_so() -> None:
    text = report_text(report(changed_paths=tuple(f"/etc/{n}" for n in range(100))))
    assert "CHANGED FILES (100)" in text
    assert "… and 60 more" in text


def test_html_holds_the_facts_and_escapes_them() -> None:
    html = report_html(report(target_product="<script>alert(1)</script>", warnings=("a&b",)))
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)" in html
    assert "a&amp;b" in html
    assert "✔ RESTORED AND VERIFIED" in html
    assert "virtio_blk -&gt; nvme [module]" in html
    assert "http" not in html.replace("http-equiv", "")  # self-contained


def test_tables_wrap_the_last_column_below_itself() -> None:
    text = table(("a", "what"), [("1", "word " * 40)])
    assert max(len(line) for line in text.splitlines()) <= 100
    assert text.splitlines()[3].startswith("   word")
