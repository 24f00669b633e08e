"""The commands together, and what becomes of their errors."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from guided.cli import bench, calibrate, cascade, convert, data, demo, edit, evaluate, generate, inspecting, train
from guided.cli import distill as distilling
from guided.cli import translate as translating
from guided.cli import tune as tuning
from guided.cli.common import say

# Where typer keeps click has changed between its versions; the classes are the same.
_Usage: Any = typer.BadParameter.__base__
_ClickError: Any = _Usage.__base__

app = typer.Typer(
    name="guided",
    help="Train and steer diffusion models: draw from text, edit photos, train on your own pictures, judge the result.",
    epilog='For example: [bold]guided demo[/bold], or [bold]guided generate "red apple" --n 4[/bold]',
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("demo", epilog=demo.EXAMPLE)(demo.demo)
app.command("train", epilog=train.EXAMPLE)(train.train)
app.command("tune", epilog=tuning.EXAMPLE)(tuning.tune)
app.command("generate", epilog=generate.EXAMPLE)(generate.generate)
app.command("edit", epilog=edit.EXAMPLE)(edit.edit)
app.command("inpaint", epilog=edit.PAINT)(edit.inpaint)
app.command("translate", epilog=translating.EXAMPLE)(translating.translate)
app.command("upscale", epilog=translating.LARGER)(translating.upscale)
app.command("distill", epilog=distilling.EXAMPLE)(distilling.distill)
app.command("calibrate", epilog=calibrate.EXAMPLE)(calibrate.calibrate)
app.command("inspect", epilog=inspecting.EXAMPLE)(inspecting.inspect)
app.command("convert", epilog=convert.EXAMPLE)(convert.convert)
app.command("eval", epilog=evaluate.EXAMPLE)(evaluate.evaluate)
app.add_typer(data.app, name="data")
app.add_typer(cascade.app, name="cascade")
app.add_typer(bench.app, name="bench")


def _version(wanted: bool) -> None:
    if wanted:
        from guided import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.", is_eager=True, callback=_version)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of a failure.")] = False,
) -> None:
    """What holds for every command; `run` has taken --debug out already."""


def run(argv: Sequence[str] | None = None) -> int:
    """Run the command line; every error becomes one message on stderr and an exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    end = arguments.index("--") if "--" in arguments else len(arguments)
    debug = "--debug" in arguments[:end]
    arguments = [word for word in arguments[:end] if word != "--debug"] + arguments[end:]
    for stream in (sys.stdout, sys.stderr):
        # A file name may hold bytes that are no text: on stdout they must survive, for the program that reads them.
        # Where the terminal's encoding lacks a letter, it is spelt out; a message must never fail to be printed.
        if hasattr(stream, "reconfigure"):
            unicode = stream is sys.stdout and (stream.encoding or "").lower().replace("-", "") == "utf8"
            stream.reconfigure(errors="surrogateescape" if unicode else "backslashreplace")
    with warnings.catch_warnings():
        warnings.showwarning = _warn
        try:
            code = app(arguments, prog_name="guided", standalone_mode=False)
            sys.stdout.flush()
            if code == 130:  # typer's own way to end at Ctrl-C
                say("interrupted")
            return code if isinstance(code, int) else 0
        except SystemExit as stop:
            return stop.code if isinstance(stop.code, int) else 1
        except BaseException as error:
            if debug:
                traceback.print_exc()
            return _explained(error, debug)


def _explained(error: BaseException, debug: bool) -> int:
    """Say what went wrong, and return the exit code."""
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        say("interrupted")
        return 130
    if isinstance(error, BrokenPipeError):
        # Who read our output has gone; what is left in the buffer has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    if isinstance(error, _ClickError):
        context = getattr(error, "ctx", None)
        if context is not None:
            say(context.get_usage())
        say(f"error: {error.format_message()}")  # type: ignore[attr-defined]
        return 2
    text = str(error).strip() or type(error).__name__
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        text = f"{os.fsdecode(error.filename)}: {error.strerror}"
    if _is_input(error):
        say(f"error: {text}")
        return 2
    kind = "" if isinstance(error, OSError | ImportError | FloatingPointError) else f"{type(error).__name__}: "
    say(f"error: {kind}{text}" + ("" if debug else "\n(the same command with --debug shows where)"))
    return 1


def _is_input(error: BaseException) -> bool:
    refused = FileNotFoundError | FileExistsError | IsADirectoryError | NotADirectoryError | PermissionError
    return isinstance(error, ValueError | refused)


def _warn(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    if not issubclass(category, DeprecationWarning | PendingDeprecationWarning | FutureWarning):
        say(f"warning: {message}")
