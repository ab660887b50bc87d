"""A disk of a few mebibytes that can really be full: a tmpfs in a mount namespace of its own, which ends with it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Self

from tests.missing import missing


class SmallDisk:
    """Use as a context manager. `path` is the disk as this process sees it, `inside` as who runs by `enter` does.

    The test is skipped, or fails, where nobody may unshare: see `missing`.
    """

    def __init__(self, mount_point: Path, mebibytes: int) -> None:
        mount_point.mkdir()
        self.inside = mount_point
        self._user = [] if os.geteuid() == 0 else ["--user"]
        mount = f'mount -t tmpfs -o size={mebibytes}m,mode=0700 small "$0" && echo mounted && exec cat'
        # `cat` holds the namespace, until its input is closed
        self._command = ["unshare", "--mount", "--propagation", "private", *(self._user and ["--map-root-user"])]
        self._command += ["sh", "-c", mount, str(mount_point)]

    def __enter__(self) -> Self:
        try:
            self._holder = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        except FileNotFoundError:
            missing("unshare (util-linux) is not installed: a full disk is not tried")
        assert self._holder.stdout is not None and self._holder.stderr is not None
        if self._holder.stdout.readline() != "mounted\n":
            missing(f"no disk can be mounted here: {self._holder.stderr.read().strip()}: a full disk is not tried")
        return self

    def __exit__(self, *_: object) -> None:
        self._holder.communicate()

    @property
    def path(self) -> Path:
        return Path(f"/proc/{self._holder.pid}/root{self.inside}")

    def enter(self, command: list[str]) -> list[str]:
        """A command that runs where the disk is mounted."""
        user = ["--user", "--preserve-credentials"] if self._user else []
        return ["nsenter", "--target", str(self._holder.pid), "--mount", *user, "--wd=.", *command]
