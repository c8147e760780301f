"""Command line: `scotd-jax --config=NAME[:SETTING,...] --workdir=DIR`, or `python -m scotd_jax.main`.

Loads the config and runs its jobs in order in the work directory. Complete artefacts are skipped and interrupted ones
resumed, so repeat a command to resume it. `scotd-jax show-prompts --config=...` prints the prompts of teachers and
students. `scotd-jax show-examples --config=... --workdir=DIR` prints example responses of a work directory. `scotd-jax
make-preference-page` and `scotd-jax read-preferences` compare two arms by the preferences of people. `scotd-jax verify
DIR` compares all files of a work directory with the digests recorded when they were written. `scotd-jax score FILE...
--questions=...` scores predictions of any origin; the last line of its output is one JSON object.

Exit status: 0 if all jobs are done, 2 on invalid input, which the message locates and explains, 130 after Ctrl-C, 143
after SIGTERM with everything saved, 1 on a bug in the package.
"""

import itertools
import os
import sys
from collections.abc import Sequence
from typing import Any

from absl import app, flags, logging
from ml_collections import config_flags

from scotd_jax import config as c
from scotd_jax.config.file_errors import describe_config_error
from scotd_jax.config.packaged import resolve_config
from scotd_jax.errors import InputError
from scotd_jax.running import INTERRUPTED, InterruptedRun, run, steps_to_redo


class _ConfigParser(flags.ArgumentParser):
    """Parser of --config that also takes names of packaged configs."""

    def __init__(self, files: flags.ArgumentParser):
        super().__init__()
        self.files = files

    def parse(self, argument: str) -> Any:
        return self.files.parse(resolve_config(argument))


_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Packaged config or path of a config file, with its settings, e.g. world:seed=1 or ./mine.py"
)
flags.FLAGS["config"].parser = _ConfigParser(flags.FLAGS["config"].parser)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of all artefacts: local, or gs://BUCKET/PATH")
_JOBS = flags.DEFINE_list(
    "jobs",
    None,
    "Run only these jobs of sample,build,train,evaluate,export,report; or plan, which estimates memory and time",
)
_OVERWRITE = flags.DEFINE_list("overwrite", [], "Remove and recreate artefacts: JOB (all of a job) or JOB:NAME (one)")
_DRY_RUN = flags.DEFINE_bool(
    "dry-run", False, "List the steps, whether each would run, and the files to download; change nothing"
)
_LIST = flags.DEFINE_bool("list", False, "List configs, tasks, importers, recipes, prompt formats and architectures")
_SKIP_BAD = flags.DEFINE_bool(
    "skip-bad", False, "Skip broken rows of imported files, counted in rationales/NAME/ledger.json, instead of stopping"
)
_MULTIHOST = flags.DEFINE_string(
    "multihost", "", "Connect to the other processes first: 'auto' on TPU and Slurm, or HOST:PORT,PROCESS,PROCESSES"
)
_DEVICES = flags.DEFINE_integer(
    "devices", None, "Stop at the start unless JAX finds exactly this many devices in all processes", lower_bound=1
)
_COUNT = flags.DEFINE_integer(
    "count",
    None,
    "show-prompts: questions per model (1); show-examples: responses per bin (1); make-preference-page: pairs (100)",
    lower_bound=1,
)
_ARMS = flags.DEFINE_list("arms", None, "make-preference-page: A,B, evaluations or sets of responses to compare")
_SET = flags.DEFINE_string("set", None, "make-preference-page: question set of the pairs; by default the first one")
_VERIFY = flags.DEFINE_bool(
    "verify", False, "Compare all files of complete steps with their digests before the first step, also large ones"
)
_QUESTIONS = flags.DEFINE_string(
    "questions", None, "score: question file; with --config, question sets of it: TASK.SPLIT,..."
)
_FILTER = flags.DEFINE_string("filter", None, "score: filter of lm-eval's samples, if the file has several")
_COMMAND_FLAGS = {  # command -> flags that have an effect on it, besides --config and --workdir
    "show-prompts": (_COUNT,),
    "show-examples": (_COUNT,),
    "make-preference-page": (_ARMS, _SET, _COUNT),
    "read-preferences": (),
    "verify": (),
    "score": (_QUESTIONS, _FILTER),
}
COMMANDS = tuple(_COMMAND_FLAGS)
OK, INPUT_ERROR = 0, 2  # exit statuses; see also running.py


def cli() -> None:
    """Runs the command line and exits with its status."""
    try:
        app.run(main, flags_parser=parse_flags)
    except KeyboardInterrupt:
        _exit_at_once("interrupted before the first step; the same command starts again", INTERRUPTED)


def main(argv: Sequence[str]) -> int:
    """Runs the command of the parsed flags and returns the exit status."""
    logging.set_verbosity(logging.ERROR)  # the jobs print their progress themselves
    try:
        command, *arguments = _command(argv)
        if _LIST.value:
            from scotd_jax.listing import format_listing

            print(format_listing())
            return OK
        _check_flags(command)
        if command == "verify":
            return verify([*arguments, *filter(None, [_WORKDIR.value])])
        if command == "score":
            print(score(arguments, _CONFIG.value))
            return OK
        if command:
            print(run_command(command, _CONFIG.value, _WORKDIR.value))
            return OK
        workdir = str(_WORKDIR.value)
        jobs, overwrite = tuple(_JOBS.value or ()), tuple(_OVERWRITE.value)
        if _DRY_RUN.value:
            return dry_run(_CONFIG.value, workdir, jobs, overwrite, _MULTIHOST.value, _SKIP_BAD.value)
        others = _MULTIHOST.value, _SKIP_BAD.value, _DEVICES.value, _VERIFY.value
        run(_CONFIG.value, workdir, jobs, overwrite, *others)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return INPUT_ERROR
    except InterruptedRun as interrupt:
        _exit_at_once(str(interrupt), interrupt.status)
    return OK


def _command(argv: Sequence[str]) -> Sequence[str]:
    """The command and its arguments; the command "" runs jobs."""
    command, *arguments = [*argv[1:]] or [""]
    unexpected = (
        [command] if command not in (*COMMANDS, "") else arguments if command not in ("verify", "score") else []
    )
    if unexpected:
        raise InputError(f"unexpected argument {unexpected[0]!r}; the commands are {', '.join(COMMANDS)}; see --help")
    return command, *arguments


def _check_flags(command: str) -> None:
    """Raises InputError on missing flags, and on flags that have no effect."""
    required = [] if command in ("verify", "score") else [(_CONFIG, "world"), (_WORKDIR, "runs/world")]
    required += [(_ARMS, "n30_opt,label_opt")] if command == "make-preference-page" else []
    required += [(_QUESTIONS, "questions.jsonl")] if command == "score" else []
    for flag, example in required:
        if flag.value is None and not (flag is _WORKDIR and command == "show-prompts"):
            raise InputError(f"--{flag.name} is missing, for example --{flag.name}={example}; see --help")
    job_flags = (_JOBS, _OVERWRITE, _DRY_RUN, _MULTIHOST, _SKIP_BAD, _DEVICES, _VERIFY)
    allowed = [flag.name for flag in (_COMMAND_FLAGS[command] if command else job_flags)]
    if command != "score":
        allowed.append(_WORKDIR.name)
    for flag in (*job_flags, _WORKDIR, _COUNT, _ARMS, _SET, _QUESTIONS, _FILTER):
        if flag.present and flag.name not in allowed:
            raise InputError(f"--{flag.name}: has no effect {f'on {command}' if command else 'without a command'}")
    if _DEVICES.present and (_DRY_RUN.value or "plan" in (_JOBS.value or ())):
        raise InputError("--devices: has no effect with --dry-run and --jobs=plan, which use no devices")


def score(files: Sequence[str], config_dict: Any) -> str:
    """Returns the output of the command `score`."""
    if not files:
        raise InputError("score: needs the files with predictions; for example scotd-jax score predictions.jsonl")
    config = None if config_dict is None else c.from_mapping(c.Config, config_dict)
    from scotd_jax.jobs.predictions.score_predictions import score_predictions

    return score_predictions(files, str(_QUESTIONS.value), config, _FILTER.value)


def run_command(command: str, config_dict: Any, workdir: str | None) -> str:
    """Returns the output of a command of `COMMANDS`."""
    config = c.from_mapping(c.Config, config_dict)
    from scotd_jax.jobs.inspection.commands import show_examples, show_prompts
    from scotd_jax.jobs.preferences.preference_commands import make_preference_page, read_preferences

    if command == "show-prompts":
        return show_prompts(config, workdir, _COUNT.value or 1)
    if command == "show-examples":
        return show_examples(config, str(workdir), _COUNT.value or 1)
    if command == "make-preference-page":
        return make_preference_page(config, str(workdir), tuple(_ARMS.value or ()), _SET.value, _COUNT.value or 100)
    return read_preferences(config, str(workdir))


def verify(workdirs: Sequence[str]) -> int:
    """Prints whether the artefacts of a work directory are intact, and returns the exit status: 2 if one is damaged.

    Args:
      workdirs: the work directory alone.
    """
    if len(workdirs) != 1:
        raise InputError("verify: expected one work directory: scotd-jax verify DIR")
    from scotd_jax.jobs.inspection import commands

    text, intact = commands.verify_workdir(workdirs[0])
    print(text)
    return OK if intact else INPUT_ERROR


def dry_run(
    config_dict: Any,
    workdir_path: str,
    jobs: tuple[str, ...],
    overwrite: tuple[str, ...],
    multihost: str,
    skip_bad: bool = False,
) -> int:
    """Prints for each step whether it would run. Takes the arguments of `run`.

    Returns:
      The exit status: 2 if a step would be refused, else 0.
    """
    config = c.from_mapping(c.Config, config_dict)
    from scotd_jax.jobs import graph

    if graph.PLAN in jobs or multihost:
        raise InputError("--dry-run: cannot be combined with --jobs=plan or --multihost")
    steps, redo = graph.chain(config, jobs or graph.JOBS), steps_to_redo(config, overwrite)
    from scotd_jax.dry_run import format_preview, preview

    run_preview = preview(config, workdir_path, steps, redo, skip_bad)
    print(format_preview(run_preview))
    return INPUT_ERROR if any(step_preview.state == "refused" for step_preview in run_preview.steps) else OK


def _exit_at_once(message: str, status: int) -> None:
    """Prints the message and exits: the usual teardown may wait for running compilations, or crash in XLA."""
    print(f"\n{message}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(status)


def parse_flags(argv: list[str]) -> list[str]:
    """Parses flags as absl does, and returns the other arguments.

    Prints errors in config files and overrides like `main`, and exits with status 2.
    """
    try:
        flags.FLAGS.set_gnu_getopt(True)  # flags may follow a command
        rest = flags.FLAGS(argv)
        if _CONFIG.present and not hasattr(_CONFIG.value, "keys"):  # an unreadable file raises only on first use
            raise InputError(f"{_config_file(argv)}: get_config() returned {_CONFIG.value!r}; expected a config")
        return rest
    except (Exception, SystemExit) as error:
        message = describe_config_error(error, _config_file(argv))
        if message is None and isinstance(error, flags.Error):
            message = str(error)
        if message is None:
            raise
    print(f"error: {message}", file=sys.stderr)
    sys.exit(INPUT_ERROR)


def _config_file(argv: list[str]) -> str:
    """The config file of --config=FILE:SETTINGS, or of --config FILE:SETTINGS."""
    values = [value for flag, value in itertools.pairwise(argv) if flag == "--config"]
    values += [flag.partition("=")[2] for flag in argv if flag.startswith("--config=")]
    return values[-1].partition(":")[0] if values else ""


if __name__ == "__main__":
    cli()
