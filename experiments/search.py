"""Search a sweep's parameters without a service: `python -m experiments.search sweep=sweeps/learning_rate.yaml [trials=N]`."""

if __name__ == "__main__":
    from experiments.launch import settle

    settle()

import fcntl
import importlib.util
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra import compose

from ecrec_jax import section
from ecrec_jax.types import InputError
from experiments import space, wiring
from experiments.cell import stoppable
from experiments.found import folder_of, short, unique, write
from experiments.override import overrides
from experiments.trial import Broken, Trial

KEYS = {"sweep": str, "trials": int, "seed": int, "name": str | None, "out": str | None, "storage": str | None}
FIRST = 3   # so many trials that broke, and none that didn't: the mistake is ours


def pruner(sweep: space.Sweep, name: str | None) -> Any:
    """Who gives trials up: what the file's early termination says, or `name`."""
    from optuna import pruners

    first, last, share = sweep.bands or (1, None, 3)
    made = {"hyperband": lambda: pruners.HyperbandPruner(first, last or "auto", share), "median": pruners.MedianPruner,
            "none": pruners.NopPruner}
    return made[name or ("hyperband" if sweep.bands else "none")]()


def opened(sweep: space.Sweep, config: Mapping[str, Any], name: str, out: Path) -> Any:
    """The study, begun or taken up again: a trial that a killed search left running is tried again in its folder.

    Raises:
        InputError: the storage can't be used, or its study is another search.
    """
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    address = config["storage"] or f"sqlite:///{out}/study.db"
    try:
        study = optuna.create_study(storage=address, study_name=name, direction=sweep.goal, load_if_exists=True,
                                    pruner=pruner(sweep, config["pruner"]))
    except (SQLAlchemyError, ImportError, ValueError, optuna.exceptions.OptunaError) as error:
        raise InputError(f"storage: {address} can't be used: {' '.join(str(error).split())[:200]}") from None
    seed = config["seed"] + len(study.trials)   # the same again would draw the same again
    study.sampler = (optuna.samplers.TPESampler if sweep.method == "bayes" else optuna.samplers.RandomSampler)(seed=seed)
    if study.user_attrs.setdefault("sweep", sweep.mark()) != sweep.mark():
        raise InputError(f"name: {name} in {address} has other parameters or another metric; give this search another name")
    study.set_user_attr("sweep", sweep.mark())
    where = study.user_attrs.get("out", str(out.resolve()))
    if config["storage"] and where != str(out.resolve()):   # whose running trials may be alive
        raise InputError(f"name: {name} in {address} is searched in {where}; give this search another name, or out={where}")
    study.set_user_attr("out", where)
    for old in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
        study.enqueue_trial(old.params, {"folder": folder_of(old)})
        study.tell(old.number, state=optuna.trial.TrialState.FAIL)
    if sweep.method == "grid":
        for chosen in sweep.grid():
            study.enqueue_trial(chosen, skip_if_exists=True)
    return study


def check(sweep: space.Sweep) -> None:
    """Compose every choice before anything starts."""
    for values in sweep.ends():
        config = wiring.plain(compose("train", [word for key, x in values.items() for word in overrides(key, x)]))
        wiring.check(config)
        wiring.plan_of(config)
        if config["run_dir"] is not None:
            raise InputError("run_dir: each trial has its own: leave it out")


def search(study: Any, sweep: space.Sweep, trials: int, out: Path) -> None:
    """Trials one after the other until there are enough."""
    from optuna.trial import TrialState

    def waiting() -> set[str]:
        return {folder_of(trial) for trial in study.get_trials(states=(TrialState.WAITING,))}

    while len({*unique(study)} - waiting()) < trials and (sweep.method != "grid" or waiting()):
        drawn, began = study.ask(), time.perf_counter()
        one = Trial(drawn, sweep, study.study_name, out / folder_of(drawn))
        print(f"trial {drawn.number}: {', '.join(f'{key}={short(x)}' for key, x in drawn.params.items())} …", flush=True)
        try:
            value = one.run()   # by its pruner's word Optuna takes the last one that was reported
            study.tell(drawn, None if one.given_up else value, TrialState.PRUNED if one.given_up else TrialState.COMPLETE)
            said = f"{sweep.metric} {value:.4f}{', given up' * one.given_up}"
        except Broken as error:
            said = str(error)
            drawn.set_user_attr("error", said)
            study.tell(drawn, state=TrialState.FAIL)
        except InputError:   # the next would say the same
            study.tell(drawn, state=TrialState.FAIL)
            raise
        print(f"trial {drawn.number}: {said}  ({time.perf_counter() - began:.0f} s)", flush=True)
        made = [trial.state for trial in unique(study).values() if trial.state.is_finished()]
        if len(made) >= FIRST and set(made) == {TrialState.FAIL}:
            raise OSError(f"the first {len(made)} trials broke; {one.folder / 'log.txt'} says why")


def main(config: dict[str, Any]) -> None:
    """Open the study, search, write what was found."""
    if importlib.util.find_spec("optuna") is None:
        raise InputError("search needs optuna, which is not installed; pip install -e '.[search]'")
    config = section.typed(config, KEYS)
    sweep = space.read(config["sweep"])
    if config["pruner"] not in (None, "hyperband", "median", "none"):
        raise InputError(f"pruner is {config['pruner']!r}, must be hyperband, median, none or null")
    if config["trials"] < 1:
        raise InputError(f"trials is {config['trials']}, must be at least 1")
    check(sweep)
    name = config["name"] or Path(config["sweep"]).stem
    out = Path(config["out"] or f"runs/search-{name}")
    out.mkdir(parents=True, exist_ok=True)

    with open(out / ".lock", "w") as lock, stoppable():
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"out: another search is working in {out}") from None
        study = opened(sweep, config, name, out)
        try:
            search(study, sweep, config["trials"], out)
        finally:
            write(study, sweep.metric, out)


if __name__ == "__main__":
    from experiments.launch import main as launch

    launch(main, "search")
