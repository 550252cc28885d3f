"""`saekit`: the command line. Commands import what they need when they run, not before."""

import functools
import importlib
import inspect
import os
import signal
import sys
import threading
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer
from typer.models import ParameterInfo

from saekit.cli.analyse import analyse
from saekit.cli.cache import app as cache
from saekit.cli.card import card
from saekit.cli.cite import cite
from saekit.cli.compare import compare
from saekit.cli.convert import convert
from saekit.cli.demo import demo
from saekit.cli.evaluate import evaluate
from saekit.cli.export import app as export
from saekit.cli.fit import fit
from saekit.cli.index import index
from saekit.cli.list import list_names
from saekit.cli.published import published
from saekit.cli.pull import pull
from saekit.cli.push import push
from saekit.cli.query import query
from saekit.cli.report import report
from saekit.cli.reproduce import reproduce
from saekit.cli.serve import serve
from saekit.cli.sweep import sweep
from saekit.cli.train import train
from saekit.cli.twins import twins
from saekit.cli.use import attribute, prompt, steer
from saekit.cli.verify import verify
from saekit.cli.watch import track, watch
from saekit.core import machine, provenance
from saekit.core.config import read_number
from saekit.core.errors import ConfigError, SaekitError
from saekit.core.lock import newest
from saekit.core.registry import studies, use
from saekit.core.text import printable
from saekit.terminal.requirements import check_first, replaced_told
from saekit.terminal.resuming import goes_on
from saekit.terminal.settings_help import lists

EPILOG = "Exit codes: 0 done, 1 error, 2 wrong option or value, 3 done in part, 4 "
"limit reached, 130 interrupted."

INTERRUPTED = 130

# That of the parser which this typer stands on, its own or click's.
UsageError: type[Exception] = typer.BadParameter.__bases__[0]

app = typer.Typer(
    help="Sparse autoencoders on language models: train, measure, look at what they found.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(asked: bool | None) -> None:
    if asked:
        typer.echo(f"saekit {metadata.version('saekit')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool | None,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = None,
    own: Annotated[
        list[Path] | None,
        typer.Option(
            "--use",
            metavar="FILE",
            help="Use the parts (architectures, metrics, ...) in this file of yours "
            "(docs/adding.md). Repeatable.",
        ),
    ] = None,
) -> None:
    for file in own or []:
        use(file)


app.command("demo")(demo)
_runs, _said = lists("saekit.training.run:Run"), ("device", "quiet", "as_json")
app.command("train", cls=goes_on(_runs, resume=("cache", "settings", "latent_shards", *_said)))(
    train
)
app.command("fit", cls=lists("saekit.training.fitted.base:registry"))(fit)
app.command("sweep", cls=goes_on(_runs, resume=("emit_commands", *_said)))(sweep)
app.command("eval", cls=lists("saekit.evals.core:Core"))(evaluate)
app.command("compare", cls=lists("saekit.evals.compare:CompareSettings", but=("seed",)))(compare)
app.command("index")(index)
app.command("analyse", cls=lists("saekit.analysis.base:registry"))(analyse)
app.command("twins")(twins)
app.command("query")(query)
app.command("report")(report)
app.command("reproduce")(reproduce)
app.command("cite")(cite)
app.command("serve")(serve)
app.command("watch")(watch)
app.command("track")(track)
app.command("verify")(verify)
app.command("prompt")(prompt)
app.command("steer")(steer)
app.command("attribute")(attribute)
app.command("convert")(convert)
app.command("published")(published)
app.command("pull")(pull)
app.command("card")(card)
app.command("push")(push)
app.command("list")(list_names)
app.add_typer(cache, name="cache")
app.add_typer(export, name="export")
# The commands of a study are named as its folder is: a new study needs no list.
for _study in studies():
    _commands = importlib.import_module(f"{_study}.commands")
    app.add_typer(_commands.app, name=_study.rpartition(".")[2])


def _read_counts(group: typer.Typer) -> None:
    """Let every option that takes a whole number take 5M, 300k, 1e6 and 10,000 too."""
    for command in group.registered_commands:
        hints = get_type_hints(command.callback, include_extras=True)
        for hint in hints.values():
            kind, *notes = get_args(hint) if get_origin(hint) is Annotated else (hint,)
            options = get_args(kind) or (kind,)
            for note in notes:
                if int in options and isinstance(note, ParameterInfo) and note.parser is None:
                    note.parser, note.metavar = count, note.metavar or "<int>"
    for below in group.registered_groups:
        if below.typer_instance is not None:
            _read_counts(below.typer_instance)


def count(text: str | int) -> int:
    """Return the whole number that a word of the command line, or a default, says.

    Raises:
        BadParameter: it says none.
    """
    try:
        number = read_number(str(text))
    except ConfigError as error:
        raise typer.BadParameter(str(error)) from error
    if not isinstance(number, int):
        raise typer.BadParameter(f"Expected a whole number; got {text!r}.")
    return number


_read_counts(app)


def _say_in_full(group: typer.Typer) -> None:
    """Let the list of commands have the first paragraph of each, which the parser would cut."""
    for command in group.registered_commands:
        command.short_help = (inspect.getdoc(command.callback) or "").partition("\n\n")[0]
    for below in group.registered_groups:
        if below.typer_instance is not None:
            below.short_help = str(below.typer_instance.info.help)
            _say_in_full(below.typer_instance)


_say_in_full(app)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit; errors of the user's to mend have no traceback."""
    machine.prepare()
    if arguments is None:
        _choose_threads(sys.argv[1:])
    try:
        code = _run(sys.argv[1:] if arguments is None else arguments, arguments is None)
    except KeyboardInterrupt:  # while an error was being told
        code = INTERRUPTED
    if arguments is None:
        _ignore_interrupts()
    if "WORLD_SIZE" in os.environ:  # one of several processes, started by torchrun
        from saekit.core.processes import leave

        leave(code)
    sys.exit(code)


def _choose_threads(words: list[str]) -> None:
    """Leave cores that others keep busy alone, in commands that compute."""
    light = {
        "list",
        "watch",
        "track",
        "report",
        "reproduce",
        "cite",
        "convert",
        "published",
        "pull",
        "card",
        "push",
        "serve",
        "query",
    }
    command = _after_use(words)[:1]
    if not command or command[0] in light or command[0].startswith("-"):
        return
    if {"-h", "--help"} & set(words):
        return
    note = machine.leave_busy_cores()
    if note and "--quiet" not in words:
        typer.echo(note, err=True)


def _run(words: list[str], ends: bool) -> int:
    """Run a command and return its exit code; the process ends with it, or somebody goes on."""
    done = _ignore_interrupts if ends else lambda: None
    try:
        check_first(_after_use(words))
        provenance.called(words)
        with replaced_told(_after_use(words)):
            code = _command()(words, prog_name="saekit", standalone_mode=False)
    except UsageError as error:
        error.show()  # type: ignore[attr-defined]
        code = 2
    except SaekitError as error:
        done()
        typer.echo(printable(f"saekit: {error}"), err=True)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    finally:
        provenance.called(None)
    if code == INTERRUPTED:  # which typer returns as well, having caught the interrupt
        done()
        claim = newest()
        kept = "Nothing was written." if claim is None else claim.kept
        typer.echo(f"saekit: interrupted. {kept}", err=True)
    return code if isinstance(code, int) else 0


@functools.cache
def _command() -> Callable[..., Any]:
    """Return the parser of every command; it takes a tenth of a second to build."""
    return typer.main.get_command(app)


def _after_use(words: list[str]) -> list[str]:
    """Return a command line without the files of parts in front of its command."""
    while words and words[0].partition("=")[0] == "--use":
        words = words[1 if "=" in words[0] else 2 :]
    return words


def _ignore_interrupts() -> None:
    """Let no further Ctrl-C break off the last words: the process is ending as it is."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
