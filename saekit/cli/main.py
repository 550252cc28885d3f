"""`saekit`: the command line. Commands import what they need when they run, not before."""

import os
import sys
from importlib import metadata
from typing import Annotated

import typer

from saekit.cli.before import check_first
from saekit.cli.cache import app as cache
from saekit.cli.convert import convert
from saekit.cli.demo import demo
from saekit.cli.evaluate import evaluate
from saekit.cli.index import index
from saekit.cli.layers import app as layers
from saekit.cli.list import list_names
from saekit.cli.locality import app as locality
from saekit.cli.report import report
from saekit.cli.sweep import sweep
from saekit.cli.train import train
from saekit.cli.truth import app as truth
from saekit.cli.watch import track, watch
from saekit.core import machine
from saekit.core.errors import SaekitError

EPILOG = "Exit codes: 0 done, 1 error, 2 usage, 3 done in part, 4 budget reached, 130 interrupted."

# That of the parser which this typer stands on, its own or click's.
UsageError: type[Exception] = typer.BadParameter.__bases__[0]

app = typer.Typer(
    help="Sparse autoencoders on language models: train, measure, look at what they found.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
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
) -> None:
    pass


app.command("demo")(demo)
app.command("train")(train)
app.command("sweep")(sweep)
app.command("eval")(evaluate)
app.command("index")(index)
app.command("report")(report)
app.command("watch")(watch)
app.command("track")(track)
app.command("convert")(convert)
app.command("list")(list_names)
app.add_typer(layers, name="layers")
app.add_typer(truth, name="truth")
app.add_typer(locality, name="locality")
app.add_typer(cache, name="cache")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit; errors of the user's to mend have no traceback."""
    machine.prepare()
    words = sys.argv[1:] if arguments is None else arguments
    try:
        check_first(words)
        code = app(words, prog_name="saekit", standalone_mode=False)
    except UsageError as error:
        error.show()  # type: ignore[attr-defined]
        code = 2
    except SaekitError as error:
        typer.echo(f"saekit: {error}", err=True)
        code = error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        typer.echo("saekit: interrupted.", err=True)
        code = 130
    code = code if isinstance(code, int) else 0
    if "WORLD_SIZE" in os.environ:  # one of several processes, started by torchrun
        from saekit.core.ranks import leave

        leave(code)
    sys.exit(code)
