"""The options of every command that opens an SAE and its language model, declared once."""

import functools
import inspect
import shlex
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from saekit.terminal.common_options import Device

if TYPE_CHECKING:
    from saekit.hub.formats.base import FormatHints
    from saekit.hub.opening import OpenOptions, OpenSAE
    from saekit.hub.trained import TrainedSAE
    from saekit.models.base import LanguageModel


@dataclass(frozen=True, kw_only=True)
class HintOptions:
    """What the user says of an SAE whose files leave it out."""

    from_: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Format of the SAE's files, if they fit several (see: saekit list formats).",
        ),
    ] = None
    model: Annotated[
        str | None,
        typer.Option(
            help="Language model, if the SAE's files do not name it or you want another: hub name "
            "or folder."
        ),
    ] = None
    read: Annotated[
        list[str] | None,
        typer.Option(
            "--read",
            help="Site that the SAE reads, as L3.mlp_in, if its files do not say. Repeatable.",
        ),
    ] = None
    write: Annotated[
        list[str] | None,
        typer.Option(
            "--write",
            help="Site that a transcoder predicts, as L3.mlp_out, if its files do not say. "
            "Repeatable.",
        ),
    ] = None
    architecture: Annotated[
        str | None,
        typer.Option(
            help="Architecture of the SAE, if its files fit several (see: saekit list saes)."
        ),
    ] = None
    k: Annotated[
        float | None, typer.Option(help="Latents kept per token, if the SAE's files do not say.")
    ] = None
    input_scale: Annotated[
        float | None,
        typer.Option(
            help="Number that activations were multiplied by in training, if the SAE's files do "
            "not say."
        ),
    ] = None
    bos: Annotated[
        bool | None,
        typer.Option(
            "--bos/--no-bos",
            help="Begin each row of text with BOS, or not. [as in training; if that is unknown, as "
            "the tokenizer does]",
        ),
    ] = None

    def hints(self) -> "FormatHints":
        """Return what fills the gaps of the files."""
        from saekit.hub.formats.base import FormatHints

        return FormatHints(
            model=self.model or "",
            read=tuple(self.read or ()),
            write=tuple(self.write or ()),
            architecture=self.architecture or "",
            k=self.k or 0.0,
            input_scale=self.input_scale or 0.0,
        )

    def read_from(
        self,
        folder: Path,
        *,
        site: str | None = None,
        scaled: bool = False,
        corpus: str | None = None,
    ) -> "TrainedSAE":
        """Return the SAE in a folder, gaps filled and BOS as asked, its model and text found.

        Args:
            folder: of a run, or of an SAE in any format.
            site: whose activations it will be given.
            scaled: the weights as trained, for all sites that share it.
            corpus: text by name, so that that of training is not looked for; "": none is read.
        """
        from saekit.hub.native import load

        loaded = load(folder, site=site, scaled=scaled, format=self.from_, hints=self.hints())
        return relocated(self.answered(loaded), folder, model=self.model, corpus=corpus)

    def answered(self, loaded: "TrainedSAE") -> "TrainedSAE":
        """Return an SAE whose card says of BOS what the user does, where he says something."""
        if self.bos is None:
            return loaded
        said = loaded.card.provenance
        gaps = [gap for gap in said.get("unknown", []) if gap != "bos"]
        card = replace(loaded.card, bos=self.bos, provenance=said | {"unknown": gaps})
        return replace(loaded, card=card)


@dataclass(frozen=True, kw_only=True)
class SAEOptions(HintOptions):
    """How the user wants an SAE read and run."""

    n_ctx: Annotated[
        int | None,
        typer.Option(
            "--n-ctx", help="Tokens in a row of text. [as in training; if that is unknown, 128]"
        ),
    ] = None
    dtype: Annotated[
        str | None,
        typer.Option(
            help="Number format of the language model: float32, bfloat16, or auto, which is "
            "bfloat16 if the hardware is fast at it. [as in training]"
        ),
    ] = None
    device: Device = "auto"
    processing: Annotated[
        str | None,
        typer.Option(
            help="transformer_lens changes the language model's weights as TransformerLens does by "
            "default, for SAEs trained on such a model. [as in training, if known]"
        ),
    ] = None

    def use(self, corpus: str | None = None) -> "OpenOptions":
        """Return the same for `saekit.hub.opening.open_sae`.

        Args:
            corpus: text by name, where the command has an option for it.
        """
        from saekit.core.errors import ConfigError
        from saekit.hub.opening import OpenOptions

        if self.n_ctx is not None and self.n_ctx < 1:
            raise ConfigError(f"`--n-ctx` must be at least 1; got {self.n_ctx}.")
        return OpenOptions(
            hints=self.hints(),
            format=self.from_,
            model=self.model,
            dtype=self.dtype,
            n_ctx=self.n_ctx or 0,
            bos=self.bos,
            corpus=corpus,
            device=self.device,
            processing=self.processing,
        )

    def typed(self, **others: str | None) -> str:
        """Return the options that were given, as they are typed, for a next command.

        Args:
            others: options of the command itself, by name.
        """
        given = {f.name: getattr(self, f.name) for f in fields(self) if f.default is None}
        words = []
        for name, value in (given | others).items():
            flag = f"--{name.strip('_').replace('_', '-')}"
            if isinstance(value, bool):
                words.append(flag if value else f"--no-{flag[2:]}")
            elif value is not None:
                each = value if isinstance(value, list) else [value]
                words += [
                    f"{flag} {shlex.quote(f'{v:g}' if isinstance(v, float) else str(v))}"
                    for v in each
                ]
        return "".join(f" {word}" for word in words)

    def open(
        self,
        folder: Path,
        *,
        corpus: str | None = None,
        site: str | None = None,
        scaled: bool = False,
        check: "Callable[[TrainedSAE], None] | None" = None,
        place: "Callable[[TrainedSAE, LanguageModel], TrainedSAE] | None" = None,
        models: "dict[str, LanguageModel] | None" = None,
    ) -> "OpenSAE":
        """Return the SAE in a folder with its language model and a text; see `open_sae`.

        Args:
            folder: of a run, or of an SAE in any format.
            corpus: text by name, in place of that of training.
            site: whose activations it will be given.
            scaled: the weights as trained, for all sites that share it.
            check: refuses an SAE that cannot be used, before a model is loaded.
            place: fills in sites where the files do not say them, knowing the model.
            models: holds those loaded before, which SAEs share.
        """
        from saekit.hub.opening import open_sae

        def prepare(loaded: "TrainedSAE") -> "TrainedSAE":
            if check is not None:
                check(loaded)
            return relocated(loaded, folder, model=self.model, corpus=corpus)

        return open_sae(
            folder,
            self.use(corpus),
            site=site,
            scaled=scaled,
            prepare=prepare,
            place=place,
            models=models,
        )


def relocated(
    loaded: "TrainedSAE", run: Path, *, model: str | None = None, corpus: str | None = None
) -> "TrainedSAE":
    """Return an SAE whose card names model and text where they are now.

    Args:
        loaded: the SAE.
        run: the folder it was read from.
        model: named by the user, so that the card's is not looked for.
        corpus: likewise.

    Raises:
        FormatError: the folder of the model, or a file of the text, is nowhere to be found.
    """
    from saekit.training import record
    from saekit.training.loop import RUN

    card = loaded.card
    made = record.read(run / RUN).begun_with if (run / RUN).exists() else {}
    given = {"model": model, "corpus": corpus}
    wanted = {k: card.run[k] for k in given if given[k] is None and k in card.run}
    found = record.found_again(wanted, run, made or {"model": card.model})
    return replace(loaded, card=replace(card, run=card.run | found))


def takes(
    options: type[Any], name: str = "sae"
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command every option of a class; it receives them together as one parameter.

    Args:
        options: the class; its fields are the options, with the help of their annotations.
        name: of the parameter.
    """

    def of(command: Callable[..., None]) -> Callable[..., None]:
        names = [f.name for f in fields(options)]
        hints = get_type_hints(options, include_extras=True)
        more = [
            inspect.Parameter(
                f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=hints[f.name]
            )
            for f in fields(options)
        ]
        signature = inspect.signature(command)
        own = [p for p in signature.parameters.values() if p.name != name]
        order = inspect.Parameter.KEYWORD_ONLY
        every = [*(p.replace(kind=order) for p in own), *more]

        @functools.wraps(command)
        def wrapped(**values: Any) -> None:
            given = {one: values.pop(one) for one in names if one in values}
            command(**values, **{name: options(**given)})

        # typer reads both; `wraps` would show it those of the command as it is written.
        wrapped.__signature__ = signature.replace(parameters=every)  # type: ignore[attr-defined]
        wrapped.__annotations__ = {p.name: p.annotation for p in every}
        del wrapped.__wrapped__  # type: ignore[attr-defined]
        return wrapped

    return of
