"""W&B's real agent, its service replaced: `python -m tests.agent PLAN.json` hands out the trials of a plan, one after the other.

The plan: `command` (of a sweep file) and `trials`, each `{id, args, end}`. `end` comes when the trial has validated: `stop`
(as early termination does), `die` (the agent gets SIGTERM, as on a machine that is taken away), or null.
"""

import json
import os
import signal
import sys
from pathlib import Path

import wandb
import yaml
from wandb import wandb_agent
from wandb.apis.public import sweeps


def validated(name):
    """Whether the trial has been through a validation, in a folder that has its name."""
    return any('"valid/' in path.read_text() for path in Path("runs").glob(f"*-{name}/metrics.jsonl"))


class Service:
    """What W&B would say."""

    def __init__(self, plan):
        self.command, self.trials, self.current = plan["command"], plan["trials"], None

    def sweep(self, api, name, specs):
        """The sweep as it was created."""
        return {"config": yaml.safe_dump({"command": self.command})}

    def heartbeat(self, api, agent, metrics, running):
        """The next command."""
        if not running:
            if not self.trials:
                return [{"type": "exit"}]
            self.current = self.trials.pop(0)
            args = {key: {"value": value} for key, value in self.current["args"].items()}
            kind = "resume" if validated(self.current["id"]) else "run"
            return [{"type": kind, "run_id": self.current["id"], "args": args, "program": None}]
        if self.current["end"] and validated(self.current["id"]):
            if self.current["end"] == "die":
                os.kill(os.getpid(), signal.SIGTERM)
            return [{"type": "stop", "run_id": self.current["id"]}]
        return []


if __name__ == "__main__":
    service = Service(json.loads(Path(sys.argv[1]).read_text()))
    wandb.Api = lambda: None
    sweeps._sweep_with_runs = service.sweep
    sweeps._register_agent = lambda api, host, sweep_id: {"id": "agent"}
    sweeps._agent_heartbeat = service.heartbeat
    wandb_agent.Agent.POLL_INTERVAL = 0.1
    wandb_agent.run_agent("sweep1", entity="somebody", project="shop")
