"""Weights & Biases: online when the user is logged in, offline otherwise."""

import contextlib
import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from ecrec_jax import source
from ecrec_jax.section import flatten
from ecrec_jax.types import InputError

TAG, GROUP = 64, 128   # characters that W&B allows


class Wandb:
    """`mode` null: as `wandb offline` or `wandb online` was said last, and online only when logged in. The run's id is kept in
    checkpoints, so that a continued run is the same run; at its end its summary shows the best checkpoint, not the last step. A
    stop asked for in W&B is a SIGTERM like the agent's: W&B's own way, a SIGINT after it, would break off a save. A tag says
    the seed."""

    def __init__(self, folder: str, config: dict[str, Any], project: str, group: str | None, tags: list[str],
                 checkpoints: bool, mode: Literal["online", "offline", "disabled"] | None):
        self.folder, self.config, self.project, self.group, self.tags = folder, config, project, group, tags
        self.checkpoints = checkpoints
        if not os.environ.get("WANDB_MODE", "unset"):   # set but empty: W&B would refuse it
            del os.environ["WANDB_MODE"]
        self.mode = mode or os.environ.get("WANDB_MODE") or chosen()
        if os.environ.get("WANDB_SWEEP_ID") and self.mode != "online":
            raise InputError("tracker.wandb.mode: a sweep needs W&B online; run `wandb login`, or leave the sweep")
        self.parent = os.getppid()

    def start(self, step: int, total: int, saved: Mapping[str, Any]) -> None:
        """Open the run, or open it again."""
        import wandb

        name = os.path.basename(os.path.abspath(self.folder))
        group, tags = self.group and self.group[:GROUP], [tag[:TAG] for tag in (*self.tags, f"seed {self.config['seed']}")]
        with understood():   # keys as sweeps have them: a sweep's `model` would take the place of a section
            self.run = wandb.init(project=self.project, name=name, group=group, tags=tags, config=flatten(self.config),
                                  dir=self.folder, id=saved.get("id") or os.environ.get("WANDB_RUN_ID"), mode=self.mode,
                                  resume="allow", reinit="create_new",   # runs of one process stand side by side
                                  settings=wandb.Settings(silent=True, disable_git=True, console="off",
                                                          stop_fn=lambda: os.kill(os.getpid(), signal.SIGTERM)))
        self.run.define_metric("step")
        self.run.define_metric("*", step_metric="step", summary="none")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """One history row with its own step; validation into the summary too, where a sweep looks for its metric."""
        self.run.log({"step": step} | dict(values))
        found = {key: x for key, x in values.items() if key.startswith("valid/")}
        if found:
            self.run.summary.update(found)

    def state(self) -> dict[str, Any]:
        """The run's id. In a sweep whose agent is gone, W&B is told to give the run to another agent, should it end unfinished."""
        if os.environ.get("WANDB_SWEEP_ID") and os.getppid() != self.parent:
            self.run.mark_preempting()
        return {"id": self.run.id}

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Put the best checkpoint's numbers into the summary, show the plots, keep what rebuilds the run if asked to, close."""
        import wandb

        self.run.summary.update(dict(summary))
        folder = Path(self.folder)
        images = {f"plots/{path.stem}": wandb.Image(str(path)) for path in sorted(folder.glob("plots/*.png"))}
        if images:
            self.run.log({"step": summary.get("steps", 0)} | images)   # a baseline has none
        if self.checkpoints:
            kept = wandb.Artifact(f"run-{self.run.id}", "run")
            for name in ("checkpoints", *source.FOLDERS):
                if (folder / name).is_dir():
                    kept.add_dir(str(folder / name), name)
            for name in ("config.yaml", "environment.json", *source.FILES):
                if (folder / name).is_file():
                    kept.add_file(str(folder / name), name)
            self.run.log_artifact(kept)
        self.run.finish()


def chosen() -> str:
    """What W&B's own settings say, or else `online` if an API key is at hand, in the environment or in netrc.

    Raises:
        InputError: a setting or key that can't be one.
    """
    import wandb

    with understood():
        settings = wandb.setup(wandb.Settings(silent=True)).settings
        if settings.mode in ("offline", "disabled"):
            return settings.mode
        return "online" if wandb.login(prompt=False, verify=False) else "offline"


@contextlib.contextmanager
def understood() -> Iterator[None]:
    """What W&B refuses or can't reach as a sentence."""
    import wandb

    try:
        yield
    except (wandb.errors.Error, ValueError) as error:   # pydantic's are values
        said = " ".join(str(error).split())
        raise InputError(f"tracker.wandb: {said[:300]}; tracker.wandb.mode=offline goes on without W&B's server") from error
