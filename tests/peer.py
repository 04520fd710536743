"""One process of two that take ten steps together: `python -m tests.peer PORT ID STRATEGY OUT.npz`.

Each has two simulated devices; process 0 writes the losses and the trained parameters.
"""

import os
import sys

import numpy as np

from ecrec_jax import processes
from tests import world


def main(port, process_id, strategy, out):
    """Connect, take the steps, write."""
    os.environ["XLA_FLAGS"] += " --xla_force_host_platform_device_count=2"   # after conftest's: the last one counts
    processes.connect(f"localhost:{port}", 2, int(process_id))
    made = world.parts("masked_lm", f"strategy={strategy}", *(["strategy.smallest=100"] if strategy == "fsdp" else []))
    assert made.strategy.devices == 4 and not processes.alone() and processes.first() == (process_id == "0")
    losses, trained = world.curve(made, world.batches(made.task, "masked_lm"))
    everywhere = processes.read(lambda: trained)
    assert all(np.array_equal(x, everywhere[name]) for name, x in trained.items())   # every process fetched the same
    if processes.first():
        np.savez(out, losses=losses, **trained)


if __name__ == "__main__":
    main(*sys.argv[1:])
