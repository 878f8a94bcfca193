"""The dispatcher: exit statuses, messages, and what is imported when."""

from __future__ import annotations

import argparse
import errno
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

import maskrcnn
from maskrcnn.cli import COMMANDS, GROUPS, main, overview
from maskrcnn.errors import DataError

ENV = {**os.environ, "PYTHONPATH": str(Path(maskrcnn.__file__).parents[1])}


@pytest.fixture
def command(monkeypatch):
    """Put a function in the place of ``maskrcnn doctor``'s run."""

    def install(run):
        module = types.ModuleType("maskrcnn.cli.doctor")
        module.HELP = "A command."
        module.add_arguments = lambda parser: parser.add_argument("--status", type=int, default=0)
        module.run = run
        monkeypatch.setitem(sys.modules, "maskrcnn.cli.doctor", module)

    return install


def raising(error):
    def run(args: argparse.Namespace) -> int:
        raise error

    return run


def test_the_commands_status_is_the_exit_status(command):
    command(lambda args: args.status)
    assert main(["doctor", "--status", "3"]) == 3
    assert main(["doctor"]) == 0


def test_a_user_error_is_a_sentence(command, capsys):
    command(raising(DataError("a.json: image 5 has no file; put it there")))
    assert main(["doctor"]) == 2
    captured = capsys.readouterr()
    assert captured.err == "maskrcnn: error: a.json: image 5 has no file; put it there\n"


def test_a_bug_keeps_its_traceback(command):
    command(raising(RuntimeError("ours")))
    with pytest.raises(RuntimeError, match="ours"):
        main(["doctor"])


def test_ctrl_c(command, capsys):
    command(raising(KeyboardInterrupt()))
    assert main(["doctor"]) == 130
    assert capsys.readouterr().err == "maskrcnn: interrupted\n"


def test_a_misspelt_command(capsys):
    assert main(["trian"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("maskrcnn: error: no command 'trian'. Did you mean 'train'? Known: ablate,")


def test_an_option_without_command(capsys):
    assert main(["--vresion"]) == 2
    assert "no option '--vresion'" in capsys.readouterr().err


def test_a_misused_option_of_a_command(command, capsys):
    command(lambda args: 0)
    assert main(["doctor", "--stat", "3"]) == 2  # no abbreviations: they would break when options are added
    assert "maskrcnn doctor has no option --stat; did you mean --status?" in capsys.readouterr().err


def test_help(command, capsys):
    command(lambda args: 0)
    assert main(["--help"]) == 0
    assert capsys.readouterr().out.strip() == overview()
    assert all(f"  {c.name}" in overview() for c in COMMANDS)
    assert main(["doctor", "--help"]) == 0
    assert "usage: maskrcnn doctor" in capsys.readouterr().out
    assert main([]) == 2
    assert "usage: maskrcnn <command>" in capsys.readouterr().err


def test_the_overview_goes_by_groups_and_fits_a_terminal():
    lines = overview().splitlines()
    heads = [line for line in lines if line in GROUPS]
    assert heads == list(GROUPS) and {c.group for c in COMMANDS} == set(GROUPS)
    for here, there in zip(heads, [*heads[1:], lines[-1]], strict=True):
        part = lines[lines.index(here) + 1 : lines.index(there) - 1]
        assert [line.split()[0] for line in part] == [c.name for c in COMMANDS if c.group == here]
    assert max(map(len, lines)) <= 80


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"maskrcnn {maskrcnn.__version__}\n"


def test_help_does_not_wait_for_torch():
    code = "import sys; from maskrcnn.cli import main; main(['--help']); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env=ENV, stdout=subprocess.DEVNULL)


def test_python_dash_m_reports_the_status():
    run = subprocess.run(
        [sys.executable, "-m", "maskrcnn", "trian"], env=ENV, capture_output=True, text=True, check=False
    )
    assert run.returncode == 2
    assert "Did you mean 'train'?" in run.stderr


def test_a_reader_that_goes_away_is_no_error():
    code = (
        "import sys\nfrom maskrcnn import cli\n"
        "cli.overview = lambda: 'x' * 10**6\nsys.exit(cli.main(['--help']))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(1)
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 141


LONG = "x" * 300


@pytest.mark.skipif(os.name == "nt", reason="Windows has another limit")
@pytest.mark.parametrize(
    "words",
    [
        ["config", "show", LONG],
        ["train", "--resume", LONG],
        ["eval", "--checkpoint", LONG],
        ["convert", LONG, "out.pt"],
        ["data", "synthetic", "--out", LONG],
        ["ablate", LONG],
    ],
)
def test_a_name_that_the_system_does_not_take_is_a_sentence(words, capsys):
    assert main(words) == 2
    complaint = capsys.readouterr().err
    assert complaint.startswith(f"maskrcnn: error: {LONG}")
    assert ": File name too long; name another file or folder" in complaint
    assert len(complaint.splitlines()) == 1


def test_an_error_of_the_system_without_a_place_is_a_bug_still(command):
    def run(args):
        raise OSError(errno.EACCES, "no place")

    command(run)
    with pytest.raises(OSError, match="no place"):
        main(["doctor"])
