"""Which modules travel: classes and names, with everything they need."""

from __future__ import annotations

from pe_build.iso import version_key
from pe_build.modules import choose, module_name, read_dependencies, read_soft_dependencies

DEP = """\
kernel/drivers/net/ethernet/intel/e1000e/e1000e.ko.xz: kernel/drivers/ptp/ptp.ko.xz
kernel/drivers/ptp/ptp.ko.xz:
kernel/drivers/net/virtio_net.ko.xz: kernel/net/core/failover.ko.xz
kernel/net/core/failover.ko.xz:
kernel/sound/snd.ko.xz:
kernel/drivers/scsi/lpfc/lpfc.ko.xz:
kernel/fs/btrfs/btrfs.ko.xz: kernel/crypto/xor.ko.xz
kernel/crypto/xor.ko.xz:
kernel/arch/x86/extra/blake2b-x86.ko.xz:
"""


def test_classes_names_needs_and_soft_needs() -> None:
    needs = read_dependencies(DEP)
    wants = read_soft_dependencies("# comment\nsoftdep btrfs pre: blake2b_x86\n", needs)
    names = {module_name(path) for path in choose(needs, wants)}
    assert names == {"e1000e", "ptp", "virtio_net", "failover", "btrfs", "xor", "blake2b_x86"}


def test_the_newest_kernel_is_chosen_by_number() -> None:
    kernels = ["linux-image-6.1.0-56-amd64", "linux-image-6.12.9+deb12-amd64", "linux-image-6.12.117+deb12-amd64"]
    assert max(kernels, key=version_key) == "linux-image-6.12.117+deb12-amd64"
