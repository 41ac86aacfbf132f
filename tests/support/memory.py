"""What a process takes of memory."""

from __future__ import annotations

from pathlib import Path


def memory(pid: int, which: str) -> int:
    """VmRSS or VmHWM in bytes (proc_pid_status(5))."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(which + ":"):
            return int(line.split()[1]) << 10
    raise AssertionError(f"there is no {which}")
