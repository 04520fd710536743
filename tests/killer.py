"""Run a training command again and again, each time stopped at a chosen point; null lets a run get through.

`python -m tests.killer '["save 2", "term 5", …, null]' experiment=… run_dir=…`: each attempt is a forked child. Points:
`step K` kills after the K-th step of the attempt, `save K` inside its K-th save (after a random delay), `evaluate K` at
the K-th batch that it evaluates, `summary 1` just before summary.json appears, `epoch K` between the save of the K-th epoch
and the next; `term K` and `term-evaluate K` send SIGTERM; `disk K` lets no file grow past 100 kB from the K-th save on.
"""

import json
import os
import random
import resource
import signal
import sys
import threading
import time

from ecrec_jax import checkpoint, evaluate, loop, meter
from experiments import launch, train


def at(count, act):
    """A function that acts on its `count`-th call."""
    calls = [0]

    def called():
        calls[0] += 1
        if calls[0] == count:
            act()

    return called


def before(owner, name, called):
    """Call `called` ahead of a function."""
    old = getattr(owner, name)

    def new(*args, **kwargs):
        called()
        return old(*args, **kwargs)

    setattr(owner, name, new)


def kill():
    """As the kernel does when memory is short."""
    os.kill(os.getpid(), signal.SIGKILL)


def arm(point):
    """Set the trap of one attempt."""
    name, count = point.split()
    delay = random.uniform(0, 0.08)
    soon = lambda: threading.Thread(target=lambda: (time.sleep(delay), kill()), daemon=True).start()  # noqa: E731
    term = lambda: os.kill(os.getpid(), signal.SIGTERM)  # noqa: E731
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))  # noqa: E731
    owner, method, act = {
        "step": (meter.Meter, "took", kill), "save": (checkpoint.Checkpoints, "save", soon), "evaluate": (evaluate, "real", kill),
        "epoch": (loop.Loop, "epoch", kill), "term": (meter.Meter, "took", term), "term-evaluate": (evaluate, "real", term),
        "disk": (checkpoint.Checkpoints, "save", limit), "summary": (evaluate.json, "dumps", lambda: None)}[name]
    if name == "summary":
        old = evaluate.write_json
        evaluate.write_json = lambda value, path: kill() if path.name == "summary.json" else old(value, path)
        return
    before(owner, method, at(int(count), act))


def attempt(point):
    """One try in a child of its own; its exit status."""
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        if point:
            arm(point)
        launch.main(train.main, "train")
        os._exit(0)
    return os.waitpid(child, 0)[1]


if __name__ == "__main__":
    points = json.loads(sys.argv.pop(1))
    random.seed(0)
    for point in points:
        status = attempt(point)
        print(f"attempt {point}: {'signal' if os.WIFSIGNALED(status) else 'exit'} "
              f"{os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)}", flush=True)
