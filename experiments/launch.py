"""How every command starts and ends: memory, Hydra, one sentence for a mistake."""

import ctypes
import difflib
import gc
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

CONF = str(Path(__file__).parent.parent / "conf")
GARBAGE = 10_000   # objects made and not freed before Python looks for cycles among them


def settle() -> None:
    """Settle this process's memory, before anything large is imported: start it again with transparent huge pages for malloc
    (XLA's buffers on CPU), once, and look for dead cycles of objects less often.

    glibc reads the setting at process start only; without it page faults cost a third of a step. Imports and tracing make so many
    objects that the searches took a sixteenth of a start.
    """
    gc.set_threshold(GARBAGE)
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if sys.platform != "linux" or "hugetlb" in tunables or "ECREC_LAUNCHED" in os.environ:
        return
    os.environ["GLIBC_TUNABLES"] = ":".join(filter(None, [tunables, "glibc.malloc.hugetlb=1"]))
    os.environ["ECREC_LAUNCHED"] = "1"
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def stop_with_parent() -> int | None:
    """As a cell of a table or a trial of a W&B agent: get SIGTERM when the table or the agent is gone, so that no orphan works
    on. The agent's process id, in a trial."""
    agent = os.getppid() if "WANDB_SWEEP_ID" in os.environ else None
    parent = os.environ.pop("ECREC_PARENT", agent)
    if parent and sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)   # PR_SET_PDEATHSIG
        if os.getppid() != int(parent):
            sys.exit(1)
    return agent


def main(command: Callable[[dict[str, Any]], None], name: str) -> None:
    """Compose conf/NAME.yaml with the command line and call `command`; exit 2 with a sentence if the input is wrong. A word
    that names a JSON file stands for its keys and values: so a sweep's agent hands them over."""
    os.environ["HYDRA_FULL_ERROR"] = "1"
    agent = stop_with_parent()
    import hydra
    from hydra._internal.utils import get_args_parser
    from hydra.errors import HydraException
    from omegaconf import DictConfig
    from omegaconf.errors import OmegaConfBaseException

    from ecrec_jax.evaluate import Interrupted
    from ecrec_jax.types import InputError
    from experiments.override import words_of
    from experiments.wiring import plain

    here = os.getpid()

    @hydra.main(version_base="1.3", config_path=CONF, config_name=name)
    def run(config: DictConfig) -> None:
        if any(isinstance(error, Interrupted) for error in failed):   # a stop is meant for all jobs
            return
        try:
            command(plain(config))
        except Exception as error:  # noqa: BLE001 (raised again below: Hydra would print its own lines)
            if os.getpid() != here:   # a launcher's worker, which hands it to Hydra
                raise
            failed.append(error)

    failed: list[Exception] = []
    for word in sys.argv[1:]:   # argparse would print its usage first
        if word.startswith("--") and word.partition("=")[0] not in get_args_parser()._option_string_actions:
            leave(f"{word}: keys have no hyphens before them: {word.lstrip('-')}", 2)
    try:
        sys.argv[1:] = [x for word in sys.argv[1:] for x in (words_of(word) if is_file(word) else [word])]
        run()
        if failed:   # of several jobs the others have run
            raise next((error for error in failed if isinstance(error, Interrupted)), failed[0])
    except InputError as error:
        leave(str(error), 2)
    except (HydraException, OmegaConfBaseException) as error:
        leave(sentence(error), 2)
    except Interrupted:   # by its agent: the trial has ended well; its agent is gone: the trial isn't over
        leave("stopped; everything is saved, the same command goes on from here", 0 if agent == os.getppid() else 1)
    except OSError as error:
        leave(str(error), 1)


def is_file(word: str) -> bool:
    """Whether a word of the command line is a JSON file of overrides, none itself."""
    return word.endswith(".json") and "=" not in word and not word.startswith("-")


def sentence(error: Exception) -> str:
    """What Hydra means, without its insides."""
    from hydra.errors import MissingConfigException, OverrideParseException
    from omegaconf.errors import MissingMandatoryValue

    text = " ".join(str(error).split())
    if isinstance(error, OverrideParseException):
        key, equals, value = error.override.partition("=")
        return f"{error.override}: not key=value as Hydra reads it; quote the value, twice: {key}='\"{value}\"'" if equals else \
            f"{error.override}: expected key=value"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        noun, _, name = error.missing_cfg_file.rpartition("/")
        if noun == "hydra/launcher":   # each in a package of its own
            extra = {"joblib": "joblib", "submitit_slurm": "slurm", "submitit_local": "slurm"}.get(name)
            return f"{noun}={name}: " + (f"not installed: pip install -e '.[{extra}]'" if extra else "there is no such launcher; "
                                         "there are basic, joblib, submitit_slurm, submitit_local")
        found = sorted(path.stem for path in (Path(CONF) / noun).glob("*.yaml"))
        return f"{noun}={name}: there is no conf/{noun}/{name}.yaml; there are {', '.join(found)}"
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} is not set: give {error.full_key}=VALUE"
    unknown = re.match(r"Could not override '([^']+)'", text)
    if unknown:
        return f"{unknown[1]} is not a key{likely(unknown[1], error.__cause__)}"
    if getattr(error, "full_key", None):   # of OmegaConf: the rest of its text is about Python types
        return f"{error.full_key}: {str(error).splitlines()[0]}"
    return text if error.__cause__ is None else f"{text}: {str(error.__cause__).splitlines()[0]}"


def likely(key: str, error: Any) -> str:
    """The keys beside one that isn't there, or the one that is nearly it."""
    parts = key.split(".")
    at = parts.index(str(error.key)) if str(getattr(error, "key", None)) in parts else len(parts) - 1
    above, beside = ".".join(parts[:at]), getattr(error, "parent_node", None) or {}
    there = [str(k) for k in beside if k not in ("_target_", "hydra")]
    close = difflib.get_close_matches(parts[at], there, 1)
    if close:
        return f"; did you mean {'.'.join([*parts[:at], close[0], *parts[at + 1 :]])}?"
    return f"; {above or 'a run'} has {', '.join(there)}" if there else ""


def leave(sentence: str, code: int) -> None:
    """One line on stderr, and out."""
    sys.stdout.flush()
    print(f"error: {sentence}", file=sys.stderr, flush=True)
    sys.exit(code)
