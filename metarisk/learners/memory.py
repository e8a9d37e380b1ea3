"""How much memory is left, so that a workspace that cannot fit is refused before the machine swaps or kills."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

_GROUPS = {
    "": ("memory.max", "memory.current", ""),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
}
"""Files of limit and use in cgroup v2 and v1, by controllers in /proc/self/cgroup, and the prefix in memory.stat."""


def free_memory(device: torch.device, root: Path = Path("/")) -> int | None:
    """Bytes that can be allocated on a device without swapping or being killed; None where nothing tells.

    On a CPU the least of what the machine has available and what is left under the limit of every control group, v1 or
    v2, that this process is in; caches of files count as free, for they give way.

    Args:
        device: CUDA or CPU.
        root: where `proc` and `sys` are.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    available = _numbers(root / "proc/meminfo").get("MemAvailable:")
    machine = [] if available is None else [available * 1024]
    return min([*machine, *_left_in_groups(root)], default=None)


def _left_in_groups(root: Path) -> Iterator[int]:
    table = root / "proc/self/cgroup"
    for line in table.read_text().splitlines() if table.exists() else []:
        _, controllers, path = line.split(":", 2)
        if controllers not in _GROUPS:
            continue
        top, (most, used, total) = root / "sys/fs/cgroup" / controllers, _GROUPS[controllers]
        own = top / path.lstrip("/")
        # in a container the group may be mounted as the top, and its path not be there
        for group in (own, *own.parents):
            limit = (group / most).read_text().strip() if (group / most).exists() else "max"
            if group.is_relative_to(top) and limit != "max":
                caches = _numbers(group / "memory.stat")
                files = sum(caches.get(f"{total}{kind}_file", 0) for kind in ("active", "inactive"))
                yield max(int(limit) - int((group / used).read_text()) + files, 0)


def _numbers(file: Path) -> dict[str, int]:
    """The first number after the first word of every line; nothing where there is no file."""
    rows = (line.split() for line in file.read_text().splitlines()) if file.exists() else []
    return {row[0]: int(row[1]) for row in rows}
