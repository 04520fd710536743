"""What both sides of a benchmark share: they make steps when told to, and say how fast. Standard library only."""

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def ceiling(product: Callable[[], object], size: int) -> float:
    """GFLOP/s of a product of two [size, size] matrices, the best of ten after one to warm up."""
    best = 0.0
    for _ in range(11):
        began = time.perf_counter()
        product()
        best = max(best, 2e-9 * size**3 / (time.perf_counter() - began))
    return best


def resident() -> float:
    """The most memory this program has held, MB. Linux: getrusage also counts what the process held before it became this program,
    a copy of its parent."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return int(next(line for line in status.read_text().splitlines() if line.startswith("VmHWM")).split()[1]) / 1024


def serve(run: Callable[[int], int], about: dict[str, Any], product: Callable[[], object], size: int,
          memory: Callable[[], float] | None = None) -> None:
    """Say `about`, make a first step, say so; then for each line N of standard input make N steps: tokens, seconds, peak memory in
    MB, and the ceiling of a `product` of matrices of `size`, measured when the first turn comes and nobody else works.

    A step that does not count goes before them: memory freed by a process that then waits for its turn goes back to the machine
    (from a virtual one to its host), and the next step takes up to twice as long.
    """
    print(json.dumps(about), flush=True)
    run(1)
    print(json.dumps({"ready": True}), flush=True)
    best = 0.0
    for line in sys.stdin:
        best = best or ceiling(product, size)
        run(1)
        began = time.perf_counter()
        tokens = run(int(line))
        seconds = time.perf_counter() - began
        print(json.dumps({"tokens": tokens, "seconds": seconds, "peak_mb": (memory or resident)(), "ceiling": best}), flush=True)
