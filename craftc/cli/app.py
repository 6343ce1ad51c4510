"""The application: commands registered by name, help, and usage errors in one line.

Commands import what they need when they run, so that `craftc --help` stays quick.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from craftc.cli.command_help import PanelCommand, help_and_example
from craftc.cli.convert import convert
from craftc.cli.diff import diff
from craftc.cli.evaluate import evaluate
from craftc.cli.export import export
from craftc.cli.inspect import inspect
from craftc.cli.optimize import optimize
from craftc.cli.outcome import INTERRUPTED, guarded, open_closed_streams, print_error, silence_stdout
from craftc.cli.plan import plan
from craftc.cli.profile import profile
from craftc.cli.show import show
from craftc.cli.simulate import simulate
from craftc.cli.verify import verify
from craftc.errors import folded

COMMANDS: tuple[Callable[..., Any], ...] = (
    inspect,
    profile,
    plan,
    optimize,
    show,
    evaluate,
    simulate,
    diff,
    verify,
    export,
    convert,
)
"""Every command, in the order of the help; a function's name is the command's."""

_UsageError: type[Exception] = typer.BadParameter.__bases__[0]
"""Base of all usage errors; typer gives it no public name."""


def run(arguments: list[str]) -> int:
    """Run one command; returns its exit code."""
    open_closed_streams()
    try:
        outcome = make_app()(arguments or ["--help"], prog_name="craftc", standalone_mode=False)
    except _UsageError as error:
        return print_error(_usage_line(error))
    except typer.Abort:
        return INTERRUPTED
    except BrokenPipeError:
        return silence_stdout()
    return outcome if isinstance(outcome, int) else 0


def make_app() -> typer.Typer:
    """The typer application with all commands."""
    app = typer.Typer(
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    app.callback()(_craftc)
    for command in COMMANDS:
        text, example = help_and_example(command)
        app.command(command.__name__, cls=PanelCommand, help=text, epilog=example)(guarded(command))
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        from craftc import __version__

        sys.stdout.write(f"craftc {__version__}\n")
        raise typer.Exit


def _craftc(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """craftc decides which experts of a Mixture-of-Experts model to copy, how often, in which layers, onto which GPUs,
    and rewrites the model so that it runs that way.

    Exit codes: 0 done, 1 the answer is no (infeasible, or a verification failed), 2 could not run.
    """


def _usage_line(error: Any) -> str:
    message = folded(error.format_message()).rstrip(".")
    context = getattr(error, "ctx", None)
    return f"{message}; see {context.command_path if context else 'craftc'} --help"
