"""The root command and what becomes of an error.

Imported by every `mlux` that anybody types, so it imports click and nothing heavier.
"""

import errno
import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

import click

from mlux.cli.groups import LazyGroup, examples
from mlux.cli.settings import Settings
from mlux.errors import MluxError

# The short help of each command stands here a second time so that `mlux --help` need not import
# the commands; tests/test_cli_help.py holds the two equal.
COMMANDS = {
    "demo": "Run the main job on the built-in model: a first look.",
    "experiments": "List the experiments, or describe one.",
    "run": "Run experiments on models and store every number.",
    "runs": "List, show, tag and resume runs.",
    "compare": "Compare runs side by side, with intervals and tests.",
    "plot": "Draw runs as PNG, SVG, HTML or JSON.",
    "report": "Write a report of runs: one page that opens without a network.",
    "claim": "Keep claims and the runs they rest on.",
    "sql": "Ask the database in read-only SQL.",
    "merge": "Bring the runs of another database here.",
    "export": "Write runs for other programs.",
    "models": "Check models; list and show those that were run.",
    "prompts": "List, show, import and export prompt sets.",
    "db": "Look after the database.",
    "doctor": "Check this installation and say how to mend it.",
}
INTERRUPTED = 130  # 128 + SIGINT, what a shell reports for a program that Ctrl-C ended
CLOSED_PIPE = 141  # 128 + SIGPIPE, the same for `mlux … | head`


@click.group(
    cls=LazyGroup,
    table=COMMANDS,
    epilog=examples("mlux demo", "mlux run logit_lens --model demo", "mlux runs list"),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
)
@click.option("--db", metavar="PATH_OR_URL", help="Database; default $MLUX_DB, else ./mlux.db.")
@click.option(
    "--experiments",
    "folders",
    metavar="DIR",
    multiple=True,
    help="A folder of your own experiments, beside $MLUX_EXPERIMENTS.",
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(package_name="mlux", message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context, db: str | None, folders: tuple[str, ...], debug: bool) -> None:
    """Look inside language models, and keep the lab notebook.

    Experiments run on any model that mlx-lm can run; every number lands in one
    database that SQL, pandas and the commands below read.
    """
    if db is not None and not db.strip():
        raise click.UsageError("--db is empty; leave it out for $MLUX_DB or ./mlux.db.")
    if folders:
        # The registry reads this variable, and so do the processes that a command starts.
        known = os.environ.get("MLUX_EXPERIMENTS")
        os.environ["MLUX_EXPERIMENTS"] = os.pathsep.join([*folders, *([known] if known else [])])
    ctx.obj = Settings(db=db)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The `mlux` command: runs it and exits.

    Exit codes: 0 done, 1 an error that the message says how to mend (or a bug, with its
    traceback), 2 wrong usage, 130 Ctrl-C.
    """
    if "_MLUX_COMPLETE" in os.environ:  # click's own protocol for completion in the shell
        cli(prog_name="mlux")
    # Its warnings are about uses that mlux checks itself, such as a prompt longer than the context.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    given = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        # A token that the terminal's encoding lacks must not end a listing.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr] # not on replaced streams, which tests do not use here
    sys.exit(_run(given))


def _run(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    try:
        with cli.make_context("mlux", list(arguments)) as ctx:
            cli.invoke(ctx)
        sys.stdout.flush()
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.UsageError as error:
        _complain(f"{error.format_message()} {_where_to_look(error)}")
        return error.exit_code
    except click.ClickException as error:
        _complain(error.format_message())
        return error.exit_code
    except MluxError as error:
        if "--debug" in arguments:
            traceback.print_exc()
        _complain(str(error))
        return 1
    except (KeyboardInterrupt, click.Abort) as error:
        # The runner says how to go on; the terminal has just shown ^C on a line of its own.
        _complain(str(error) or "Interrupted.", before="\n" if sys.stderr.isatty() else "")
        return INTERRUPTED
    except BrokenPipeError:
        # What is still buffered goes nowhere, and Python would complain about that at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_PIPE
    except OSError as error:
        if error.filename is None and error.errno != errno.ENOSPC:
            raise  # of no file that anybody named
        # A name too long, a disk that is full, a folder that may not be written: no bug of mlux.
        if "--debug" in arguments:
            traceback.print_exc()
        place = "" if error.filename is None else f"{os.fsdecode(error.filename)[:200]}: "
        _complain(f"{place}{error.strerror}. Choose another place, or mend that.")
        return 1
    except UnicodeEncodeError as error:
        if error.reason != "surrogates not allowed":
            raise
        # What Python makes of bytes on the command line that are no UTF-8; no table can hold it.
        start = os.fsencode(error.object)[:60]
        _complain(f"{start!r} is not UTF-8, so it cannot be stored. Type it in a UTF-8 terminal.")
        return 1
    return 0


def _where_to_look(error: click.UsageError) -> str:
    root_options = {option for parameter in cli.params for option in parameter.opts}
    if isinstance(error, click.NoSuchOption) and error.option_name in root_options:
        return f"It goes before the command: mlux {error.option_name} … COMMAND"
    return f"See: {error.ctx.command_path if error.ctx else 'mlux'} --help"


def _complain(message: str, before: str = "") -> None:
    """One line on stderr, whatever the message holds."""
    from mlux.cli.cells import printable  # what no error needs no command pays for

    click.echo(f"{before}Error: {printable(' '.join(message.split()))}", err=True)
