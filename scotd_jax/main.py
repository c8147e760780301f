"""Command line: `scotd-jax --config=NAME[:SETTING,...] --workdir=DIR`, or `python -m scotd_jax.main`.

Loads the config and runs its jobs in order in the work directory. Complete artefacts are skipped and interrupted ones
resumed, so repeat a command to resume it. With `--sweep=KEY=VALUE,VALUE,...` there is a run for every value of a config
key. Besides the run there are the commands

    scotd-jax show-prompts --config=...                      prints the prompts of teachers and students
    scotd-jax show-examples --config=... --workdir=DIR       prints example responses of a work directory
    scotd-jax make-preference-page, read-preferences         compare two arms by the preferences of people
    scotd-jax verify DIR                                     compares all files of a work directory with their digests
    scotd-jax score FILE... --questions=...                  scores predictions of any origin; the last line is JSON

Exit status: 0 if all jobs are done, 2 on invalid input, which the message locates and explains, 130 after Ctrl-C, 143
after SIGTERM with everything saved, 1 on a bug in the package.
"""

import itertools
import os
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from absl import app, flags, logging
from ml_collections import config_flags

from scotd_jax import subcommands
from scotd_jax.config.file_errors import describe_config_error
from scotd_jax.config.loading import from_mapping, plain
from scotd_jax.config.packaged import resolve_config
from scotd_jax.config.schema import Config
from scotd_jax.config.sweeps import sweep
from scotd_jax.config.swept_keys import parse_grid
from scotd_jax.distributed.gpu_settings import set_gpu_memory_fraction
from scotd_jax.errors import InputError
from scotd_jax.running import INTERRUPTED, InterruptedRun, run
from scotd_jax.subcommands import INPUT_ERROR, OK, Output


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
    "Run only these jobs of sample,score,build,train,evaluate,export,report; or plan, which estimates memory and time",
)
_OVERWRITE = flags.DEFINE_list("overwrite", [], "Remove and recreate artefacts: JOB (all of a job) or JOB:NAME (one)")
_DRY_RUN = flags.DEFINE_bool(
    "dry-run", False, "List the steps, whether each would run, and the files to download; change nothing"
)
_LIST = flags.DEFINE_bool(
    "list", False, "List configs, tasks, importers, recipes, selections, prompt formats and architectures"
)
_SKIP_BAD = flags.DEFINE_bool(
    "skip-bad", False, "Skip broken rows of imported files, counted in rationales/NAME/ledger.json, instead of stopping"
)
_SWEEP = flags.DEFINE_multi_string(
    "sweep",
    [],
    "KEY=VALUE,VALUE,...: a run for every value of a config key, e.g. corpora.n30.n=1,5,30; of several keys, for every "
    "combination",
)
_MULTIHOST = flags.DEFINE_string(
    "multihost", "", "Connect to the other processes first: 'auto' on TPU and Slurm, or HOST:PORT,PROCESS,PROCESSES"
)
_DEVICES = flags.DEFINE_integer(
    "devices", None, "Stop at the start unless JAX finds exactly this many devices in all processes", lower_bound=1
)
_PARALLEL = flags.DEFINE_integer(
    "parallel", 1, "Number of steps that run at a time, each on an equal share of the devices", lower_bound=1
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
_JOB_FLAGS = (_JOBS, _OVERWRITE, _DRY_RUN, _MULTIHOST, _SKIP_BAD, _DEVICES, _VERIFY, _PARALLEL)
_COMMAND_FLAGS = {  # command -> flags that have an effect on it, besides --config; "" runs the jobs
    "": (_WORKDIR, _SWEEP, *_JOB_FLAGS),
    "show-prompts": (_WORKDIR, _SWEEP, _COUNT),
    "show-examples": (_WORKDIR, _SWEEP, _COUNT),
    "make-preference-page": (_WORKDIR, _SWEEP, _ARMS, _SET, _COUNT),
    "read-preferences": (_WORKDIR, _SWEEP),
    "verify": (_WORKDIR,),
    "score": (_QUESTIONS, _FILTER),
}
_REQUIRED = {  # command -> flags that it needs, with examples
    **dict.fromkeys(_COMMAND_FLAGS, ((_CONFIG, "world"), (_WORKDIR, "runs/world"))),
    "show-prompts": ((_CONFIG, "world"),),
    "make-preference-page": ((_CONFIG, "world"), (_WORKDIR, "runs/world"), (_ARMS, "n30_opt,label_opt")),
    "verify": (),
    "score": ((_QUESTIONS, "questions.jsonl"),),
}
_WITH_ARGUMENTS = ("verify", "score")  # commands with arguments that are no flags
COMMANDS = tuple(command for command in _COMMAND_FLAGS if command)


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
        command, arguments = _command(argv)
        if _LIST.value:
            from scotd_jax.listing import format_listing

            print(format_listing())
            return OK
        _check_flags(command)
        if command or _DRY_RUN.value:
            output = _output(command, arguments)
            print(output.text)
            return output.status
        set_gpu_memory_fraction()
        run(
            swept_config(_CONFIG.value, _SWEEP.value),
            str(_WORKDIR.value),
            tuple(_JOBS.value or ()),
            tuple(_OVERWRITE.value),
            _MULTIHOST.value,
            skip_bad=_SKIP_BAD.value,
            devices=_DEVICES.value,
            verify=_VERIFY.value,
            command=shlex.join(["scotd-jax", *sys.argv[1:]]),
            parallel=_PARALLEL.value,
        )
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return INPUT_ERROR
    except InterruptedRun as interrupt:
        _exit_at_once(str(interrupt), interrupt.status)
    return OK


def _command(argv: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The command and its arguments. Raises InputError on an unknown command, and on arguments of one without."""
    command, *arguments = argv[1:] or [""]
    unexpected = [] if command in _WITH_ARGUMENTS else arguments
    if command not in _COMMAND_FLAGS:
        unexpected = [command]
    if unexpected:
        raise InputError(f"unexpected argument {unexpected[0]!r}; the commands are {', '.join(COMMANDS)}; see --help")
    return command, arguments


def _check_flags(command: str) -> None:
    """Raises InputError on missing flags, and on flags that have no effect."""
    for flag, example in _REQUIRED[command]:
        if flag.value is None:
            raise InputError(f"--{flag.name} is missing, for example --{flag.name}={example}; see --help")
    allowed = {flag.name for flag in _COMMAND_FLAGS[command]}
    for flag in itertools.chain(*_COMMAND_FLAGS.values()):
        if flag.present and flag.name not in allowed:
            raise InputError(f"--{flag.name}: has no effect {f'on {command}' if command else 'without a command'}")
    for flag in (_DEVICES, _PARALLEL):
        if flag.present and (_DRY_RUN.value or "plan" in (_JOBS.value or ())):
            raise InputError(f"--{flag.name}: has no effect with --dry-run and --jobs=plan, which use no devices")


def _output(command: str, arguments: Sequence[str]) -> Output:
    """The output of a command, or of the dry run."""
    config, workdir = swept_config(_CONFIG.value, _SWEEP.value), str(_WORKDIR.value)
    match command:
        case "show-prompts":
            return subcommands.show_prompts(config, _WORKDIR.value, _COUNT.value)
        case "show-examples":
            return subcommands.show_examples(config, workdir, _COUNT.value)
        case "make-preference-page":
            return subcommands.make_preference_page(config, workdir, tuple(_ARMS.value or ()), _SET.value, _COUNT.value)
        case "read-preferences":
            return subcommands.read_preferences(config, workdir)
        case "verify":
            return subcommands.verify([*arguments, *filter(None, [_WORKDIR.value])])
        case "score":
            return subcommands.score(arguments, str(_QUESTIONS.value), config, _FILTER.value)
        case _:
            jobs, overwrite = tuple(_JOBS.value or ()), tuple(_OVERWRITE.value)
            return subcommands.dry_run(config, workdir, jobs, overwrite, _MULTIHOST.value, _SKIP_BAD.value)


def swept_config(config_dict: Any, arguments: Sequence[str]) -> Any:
    """Returns the config with the runs of the --sweep arguments, as a mapping."""
    if not arguments:
        return config_dict
    return plain(sweep(from_mapping(Config, config_dict), parse_grid(arguments)))


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
