"""Which disks outlive their container."""

from __future__ import annotations

from pathlib import Path

import pytest

from caseyos_otel.spool.disk import is_ephemeral, type_of

MOUNTS = r"""22 1 0:20 / / rw,relatime - overlay overlay rw,lowerdir=/l
30 22 8:1 /data /var/lib/state rw,noatime shared:1 - ext4 /dev/sda1 rw
31 30 0:40 / /var/lib/state/memory rw - tmpfs tmpfs rw
32 22 8:2 / /mnt/with\040space rw master:2 propagate_from:1 - xfs /dev/sdb rw
33 22 8:3 / /hidden rw - ext4 /dev/sdc rw
34 33 0:41 / /hidden rw - tmpfs tmpfs rw
"""


@pytest.mark.parametrize(
    ("directory", "kind"),
    [
        ("/app/spool", "overlay"),
        ("/var/lib/state", "ext4"),
        ("/var/lib/state/not/there/yet", "ext4"),
        ("/var/lib/state-2", "overlay"),
        ("/var/lib/state/memory/spool", "tmpfs"),
        ("/mnt/with space/spool", "xfs"),
        ("/hidden/spool", "tmpfs"),
    ],
)
def test_the_innermost_mount_tells_the_type(directory: str, kind: str, tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS)
    assert type_of(Path(directory), mounts) == kind


def test_a_link_is_followed(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"22 1 8:1 / / rw - ext4 /dev/sda1 rw\n30 22 0:40 / {tmp_path}/memory rw - tmpfs tmpfs rw\n")
    (tmp_path / "memory").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "memory")
    assert type_of(tmp_path / "link" / "spool", mounts) == "tmpfs"


def test_a_container_s_own_layer_and_memory_do_not_last() -> None:
    assert [
        kind for kind in ("overlay", "tmpfs", "ramfs", "ext4", "xfs", "nfs4", "btrfs", None) if is_ephemeral(kind)
    ] == [
        "overlay",
        "tmpfs",
        "ramfs",
    ]


def test_a_system_that_does_not_tell_is_not_suspected(tmp_path: Path) -> None:
    assert type_of(tmp_path, tmp_path / "no such file") is None
    assert type_of(Path("/proc/self")) == "proc"
