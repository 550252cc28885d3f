"""`saekit serve`: the explorer, pages that show what the latents of the SAEs in a folder mean."""

from pathlib import Path
from typing import Annotated

import typer


def serve(
    folder: Annotated[
        Path, typer.Argument(help="Folder to look for runs, SAEs and studies in.")
    ] = Path(),
    port: Annotated[
        int | None,
        typer.Option(
            help="Port to serve on; 0 takes any that is free. [8765, or the next that is free]"
        ),
    ] = None,
    open_browser: Annotated[
        bool, typer.Option("--open", help="Open the pages in a browser.")
    ] = False,
    read_only: Annotated[
        bool, typer.Option("--read-only", help="Only show: write no labels and make no indexes.")
    ] = False,
    memory: Annotated[
        float | None,
        typer.Option(
            help="Most memory, in GB, for the process that runs the model. [80 % of the machine's]"
        ),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            help="Write to this file the token that scripts send as Authorization: Bearer TOKEN."
        ),
    ] = None,
    unsafe_host: Annotated[
        str | None,
        typer.Option(help="Serve to other machines under this address too, without encryption."),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print one line of JSON with the address and the token file."),
    ] = False,
) -> None:
    """Show what the latents of SAEs mean, as pages in a browser, until Ctrl-C.

    Example: saekit serve runs --open
    """
    from saekit.core import machine
    from saekit.explorer.serve import Explorer, Options, teller, warning
    from saekit.terminal.output import emit

    if as_json and token_file is None:
        token_file = folder / ".saekit" / "token"
    machine.share_arenas()
    options = Options(
        port=port,
        unsafe_host=unsafe_host,
        token_file=token_file,
        read_only=read_only,
        memory_gb=memory,
    )
    if unsafe_host is not None:
        typer.echo(f"warning  {warning(unsafe_host)}", err=True)
    explorer = Explorer(folder, options, teller(shown=not as_json))
    if as_json:
        record = {"address": explorer.address, "token_file": str(token_file)}
        emit(record, as_json=True, lines=[])
    if open_browser:
        import webbrowser

        webbrowser.open(explorer.gate.link)
    explorer.run()
