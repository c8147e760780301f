"""The command line: listing, dry run, and the messages for wrong flags and config files."""

import dataclasses
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags
from ml_collections import config_flags

from scotd_jax import config as c
from scotd_jax import main, subcommands
from scotd_jax.config import file_errors
from scotd_jax.config.file_errors import describe_config_error
from scotd_jax.config.packaged import packaged_configs
from scotd_jax.errors import InputError
from scotd_jax.listing import LISTING, format_listing
from scotd_jax.models.registry import PRESETS
from scotd_jax.rationales.importers.registry import IMPORTERS
from scotd_jax.rationales.selections import SELECTIONS, STUDENT_SELECTIONS
from scotd_jax.tasks.prompt_formats import FORMATS
from scotd_jax.tasks.recipes import RECIPES
from scotd_jax.tasks.registry import KINDS
from scotd_jax.workdir import Workdir
from tests.helpers.manifests import edit_manifest

ROOT = Path(__file__).parents[1]
MODEL = c.Model(
    architecture="opt-tiny", overrides={"hidden_size": 32, "num_attention_heads": 2, "ffn_dim": 64}, tokenizer="task:w"
)
SIZES = {"train": 8, "dev": 4, "test": 4, "unseen": 4, "longer": 4, "gold": 8, "statements": 4}


def config() -> c.Config:
    """Gold rationales, a corpus of them, and a student."""
    training = c.Training(steps=2, batch_size=8, optimizer=c.Optimizer(warmup_steps=1))
    return c.Config(
        tasks={"w": c.Task(options=SIZES)},
        rationales={"gold": c.TaskSource(questions=("w.gold",))},
        corpora={"gold": c.Corpus(rationales=("gold",), decontaminate=0)},
        students={"student": c.Student(model=MODEL, corpus="gold", training=training)},
    )


# --list


@pytest.mark.slow
def test_listing_has_every_registered_name():
    names = [{name for name in entries if not name.endswith(".py")} for entries in LISTING.values()]
    assert names == [
        set(KINDS),
        set(IMPORTERS),
        set(RECIPES),
        {*SELECTIONS, *STUDENT_SELECTIONS},
        set(FORMATS),
        set(PRESETS),
    ]
    for entries in [packaged_configs(), *LISTING.values()]:
        for name, description in entries.items():
            assert f"  {name} " in format_listing()
            assert description


def test_list_needs_no_other_flag_and_no_jax():
    code = (
        "import runpy, sys\n"
        "sys.argv = ['main', '--list']\n"
        "try: runpy.run_module('scotd_jax.main', run_name='__main__')\n"
        "except SystemExit as stop: print('exit status', stop.code)\n"
        "print('jax' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert "commonsenseqa" in done.stdout
    assert done.stdout.splitlines()[-2:] == ["exit status 0", "False"]


# --dry-run


def dry_run(workdir: Path, config: c.Config, overwrite: tuple[str, ...] = ()) -> tuple[int, list[str]]:
    """Returns the exit status and the lines of the output; asserts that the work directory stays unchanged."""
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    output = subcommands.dry_run(c.plain(config), str(workdir), (), overwrite, "")
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*")} == before
    return output.status, [" ".join(line.split()) for line in output.text.splitlines()]


def test_dry_run_lists_which_steps_would_run_are_complete_or_refused(tmp_path):
    assert dry_run(tmp_path, config()) == (
        0,
        [
            "run sample gold",
            "run build gold after sample gold",
            "run train student after build gold",
            "run report",
            "4 steps: 4 run",
        ],
    )
    main.run(c.plain(config()), str(tmp_path), ("sample", "build"), (), "")
    assert dry_run(tmp_path, config()) == (
        0,
        [
            "complete sample gold",
            "complete build gold",
            "run train student",
            "run report",
            "4 steps: 2 run, 2 complete",
        ],
    )
    edit_manifest(tmp_path / "corpora/gold", complete=False)
    assert dry_run(tmp_path, config())[1][1:3] == ["resume build gold", "run train student after build gold"]


def test_dry_run_gives_the_reason_of_a_refusal(tmp_path):
    main.run(c.plain(config()), str(tmp_path), ("sample", "build"), (), "", command="scotd-jax --config=x")
    assert Workdir(str(tmp_path)).commands() == ["scotd-jax --config=x"]
    changed = dataclasses.replace(config(), corpora={"gold": c.Corpus(rationales=("gold",), decontaminate=0, cap=1)})
    status, lines = dry_run(tmp_path, changed)
    assert status == 2
    assert lines[0] == "complete sample gold"
    assert lines[1].startswith("refused build gold ")
    assert "spec.cap was 0 and is now 1" in lines[1]
    assert lines[2] == "blocked train student needs build gold"
    assert dry_run(tmp_path, changed, ("build",)) == (
        0,
        [
            "complete sample gold",
            "run build gold from the start (--overwrite)",
            "run train student after build gold",
            "run report",
            "4 steps: 3 run, 1 complete",
        ],
    )
    status, lines = dry_run(tmp_path, config(), ("sample",))
    assert status == 0
    assert lines[1] == "unknown build gold after sample gold: kept if that yields the same result, else refused"


def test_dry_run_refuses_a_training_that_could_never_start(tmp_path):
    training = c.Training(steps=2, batch_size=8, optimizer=c.Optimizer(warmup_steps=5))
    student = dataclasses.replace(config().students["student"], training=training)
    status, lines = dry_run(tmp_path, dataclasses.replace(config(), students={"student": student}))
    assert status == 2
    assert lines[2].startswith("refused train student config.students.student: optimizer.warmup_steps is 5")


# Messages


def command(*flags: str) -> subprocess.CompletedProcess:
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    return subprocess.run(
        [sys.executable, "-m", "scotd_jax.main", *flags],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def load_config(file: Path) -> None:
    """Loads a config file as the command line does, into flags of its own."""
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_file("config", None, flag_values=values)
    values(["main", f"--config={file}"])
    holder.value.keys()


CONFIG_FILE = """from scotd_jax import config as c


def get_config():
    return c.config_dict(c.Config(students={{"s": {student}}}))
"""


@pytest.mark.parametrize(
    ("student", "message"),
    [
        ("c.Student(", "config.py line 5: "),
        ('c.Student(dev=("w.dev",))', "config.py line 5: Student.dev: this key is now called 'dev_sets'"),
        ('c.Student(devsets=("w.dev",))', "config.py line 5: Student.devsets: unknown key; did you mean 'dev_sets'?"),
        ("c.Asking()", "config.py line 5: scotd_jax.config has no 'Asking'; it is now EvalSpec"),
        ("c.Studend()", "config.py line 5: scotd_jax.config has no 'Studend'; did you mean 'Student'?"),
        ("c.Student(training=c.Training(steps=0))", "config.py line 5: Training.steps: expected at least 1, found 0"),
        ("[].student", "config.py line 5: AttributeError: 'list' object has no attribute 'student'"),
    ],
)
def test_errors_of_a_config_file_name_file_and_line(tmp_path, student, message):
    (tmp_path / "config.py").write_text(CONFIG_FILE.format(student=student))
    done = command(f"--config={tmp_path}/config.py", f"--workdir={tmp_path}/w")
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("import nosuchmodule", "ModuleNotFoundError: No module named 'nosuchmodule'"),
        ("from scotd_jax.config import Foo", "ImportError: cannot import name 'Foo'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("nosuchname", "NameError: name 'nosuchname' is not defined"),
        ("open('/no/such/file')", "FileNotFoundError: .*'/no/such/file'"),
        ("int('x')", "ValueError: invalid literal"),
        ("dict(a=1).pop('b')", "KeyError: 'b'"),
        ("import json; json.loads('{')", "JSONDecodeError: Expecting"),
        ("(lambda a: a)(b=3)", r"TypeError: .*<lambda>\(\) got an unexpected keyword argument 'b'"),
        ("assert False", "AssertionError$"),
        ("raise SystemExit(0)", "ends the program"),
    ],
)
@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # of ml_collections
def test_any_exception_in_a_config_file_is_reported_with_its_line(tmp_path, line, message):
    file = tmp_path / "config.py"
    file.write_text(f"def get_config(arg=None):\n    {line}\n")
    with pytest.raises(BaseException) as raised:  # noqa: PT011 (of any type)
        load_config(file)
    assert re.match(rf"{file} line 2: {message}", describe_config_error(raised.value, str(file)) or "")


def test_config_file_beside_a_library_is_not_part_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr(file_errors, "_LIBRARIES", (tmp_path / "scotd_jax",))
    file = tmp_path / "scotd_jax_mine" / "config.py"
    file.parent.mkdir()
    file.write_text("def get_config():\n    1 / 0\n")
    with pytest.raises(ZeroDivisionError) as raised:
        runpy.run_path(str(file))["get_config"]()
    assert (describe_config_error(raised.value, str(file)) or "").startswith(f"{file} line 2: ZeroDivisionError")


def test_bugs_of_the_package_keep_their_traceback():
    with pytest.raises(TypeError) as raised:
        c.from_mapping(c.Config, 3)
    error = raised.value
    assert error.__traceback__ is not None
    error.__traceback__ = error.__traceback__.tb_next  # removes the frame of this test, which is outside the package
    assert describe_config_error(error, "config.py") is None


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("    pass", "config.py: get_config() returned None; expected a config"),
        ("    return 3", "config.py: get_config() returned 3; expected a config"),
    ],
)
def test_config_file_that_returns_no_config_is_refused(tmp_path, body, message):
    (tmp_path / "config.py").write_text(f"def get_config(arg=None):\n{body}\n")
    done = command(f"--config={tmp_path}/config.py", f"--workdir={tmp_path}/w")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == f"error: {tmp_path}/{message}"


@pytest.mark.parametrize(
    ("command_line", "message"),
    [
        (["--config=configs/nosuch.py:x"], "--config: no config file at 'configs/nosuch.py'"),
        (["--nosuch=1"], "Unknown command line flag 'nosuch'"),
        ([], "--config is missing, for example --config=world"),
        (["--config=world"], "--workdir is missing, for example --workdir=runs/world"),
        (["--config=world", "--workdir=x", "--dry-run", "--devices=2"], "--devices: has no effect with --dry-run"),
        (["--config=configs/world.py", "--config.students.teacher.sets=x"], "this key is now called 'eval_sets'"),
        (["--config=configs/world.py", "--config.students.tacher.seed=1"], 'Did you mean "teacher"'),
    ],
)
def test_wrong_flags_are_refused_in_one_line(command_line, message):
    done = command(*command_line)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_run_on_other_devices_than_requested_writes_nothing(tmp_path):
    with pytest.raises(InputError, match="--devices=3: JAX found 8"):
        main.run(c.plain(config()), str(tmp_path), ("sample",), (), "", devices=3)
    assert list(tmp_path.iterdir()) == []
