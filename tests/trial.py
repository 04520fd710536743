"""`experiments.train` as an agent starts it, without W&B's service: a run that wants to be online is written offline.

`python -m tests.trial FILE.json`: all else is real, also the records of what W&B would have been sent.
"""

import runpy
import sys

import wandb

if __name__ == "__main__":
    real = wandb.init
    wandb.init = lambda **given: real(**given | {"mode": "offline"})
    sys.argv[0] = "experiments/train.py"
    runpy.run_module("experiments.train", run_name="__main__")
