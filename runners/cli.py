"""``aloe COMMAND``. Commands are loaded when they are used: the help page loads none of them.

Exit codes: 0 done; 1 done with failures, or stopped by an error; 2 unusable arguments or configuration;
130 interrupted, with all that was paid kept. Errors are one line on standard error; ``--debug`` shows where from.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import keyword
import logging
import os
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from aloe_agents import __version__
from aloe_agents.errors import AloeError, ConfigError
from aloe_agents.reporting import FirstOfEachKind
from aloe_agents.text import inert

DEBUG = "aloe_agents.debug"

GROUPS = {
    "Try it": ("demo", "doctor"),
    "People": ("personas",),
    "Conversations": ("simulate", "watch", "status", "export"),
    "Models": ("serve", "train"),
    "How well they adapt": ("evaluate", "compare", "judge", "annotate"),
}
"""The commands by the way of the data."""
COMMANDS = {
    "demo": "Run the whole method offline in seconds, with a scripted model.",
    "doctor": "Check what is installed, which endpoints answer, and who hears whom.",
    "personas": "Grow, import, review, split and sample pools of personas.",
    "simulate": "Turn personas into conversation trees; the same command resumes.",
    "watch": "Show a running or finished run in the terminal.",
    "status": "Show a run's accounting, and why conversations failed.",
    "export": "Write a run's trees as training rows or in another format.",
    "serve": "Serve a local model, or the scripted one, until stopped.",
    "train": "Train a model on a run's trees, with SFT or DPO.",
    "evaluate": "Run the ALOE benchmark: how well does a model adapt to its user?",
    "compare": "Put evaluations side by side: tables, curves, significant differences.",
    "judge": "Score a finished run again, with another judge.",
    "annotate": "Make sheets for human raters, and measure their agreement with the judge.",
}


class Commands(click.Group):
    """A group that holds names and help lines, and imports a command when it is called: ``home.NAME``, its ``command``.

    ``groups`` arranges the help page. Every command takes ``--debug``, ``--quiet`` and ``--log-file``.
    """

    def __init__(
        self,
        *args: Any,
        home: str,
        about: Mapping[str, str],
        groups: Mapping[str, Sequence[str]] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.home, self.about = home, about
        self.groups = groups or {"Commands": tuple(about)}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of the help page."""
        return list(self.about)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name, imported now."""
        if cmd_name not in self.about:
            return None
        module = f"{self.home}.{cmd_name}_" if keyword.iskeyword(cmd_name) else f"{self.home}.{cmd_name}"
        command: click.Command = importlib.import_module(module).command
        _add_common(command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does it, with a suggestion for a name that does not exist."""
        if args and args[0] not in self.about and not args[0].startswith("-"):
            import difflib

            close = difflib.get_close_matches(args[0], self.about, 1)
            meant = f"; did you mean {close[0]!r}?" if close else f" (there are {', '.join(self.about)})"
            raise click.UsageError(f"no command {args[0]!r}{meant}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands and their help lines, group by group."""
        for title, names in self.groups.items():
            with formatter.section(title):
                formatter.write_dl([(name, self.about[name]) for name in names])


def _add_common(command: click.Command) -> None:
    """Give ``command``, or each command of a group, the options that all commands take."""
    if isinstance(command, click.Group) and not isinstance(command, Commands):
        for inner in command.commands.values():
            _add_common(inner)
        return
    there = {option for parameter in command.params for option in parameter.opts}
    for option in _common():
        if option.opts[0] not in there:
            command.params.append(option)


def _common() -> list[click.Option]:
    note: dict[str, Any] = {"expose_value": False, "is_eager": True}
    return [
        click.Option(["--quiet"], is_flag=True, callback=_quiet, help="Print nothing but errors.", **note),
        click.Option(["--log-file"], metavar="FILE", callback=_log_to, help="Also write log messages to FILE.", **note),
        click.Option(
            ["--debug"],
            is_flag=True,
            callback=_debug,
            help="Show tracebacks, also of the first failure of each kind.",
            **note,
        ),
    ]


def _quiet(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        nowhere = ctx.with_resource(open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 the context closes it
        ctx.with_resource(contextlib.redirect_stdout(nowhere))


def _debug(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        ctx.find_root().meta[DEBUG] = True
        logging.getLogger("aloe_agents").setLevel(logging.DEBUG)


def _log_to(ctx: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is None:
        return
    try:
        handler = logging.FileHandler(value, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {value}: {error.strerror or error}") from None
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handler.addFilter(FirstOfEachKind())
    logging.getLogger("aloe_agents").addHandler(handler)
    ctx.call_on_close(lambda: _let_go(handler))


def _let_go(handler: logging.Handler) -> None:
    logging.getLogger("aloe_agents").removeHandler(handler)
    handler.close()


@click.command(
    cls=Commands,
    home="aloe_agents.runners",
    about=COMMANDS,
    groups=GROUPS,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option("--debug", is_flag=True, expose_value=False, callback=_debug, help="Show tracebacks.")
@click.version_option(__version__, prog_name="aloe")
def aloe() -> None:
    """Simulate many believable users at once, and measure how well models adapt to them.

    \b
    Try:  aloe demo
          aloe simulate --personas personas.jsonl --out runs/first
    """


@contextlib.contextmanager
def _reported() -> Iterator[None]:
    """Log messages go to standard error in one line each, for as long as the block lasts. What the output's encoding
    cannot hold is replaced: a run that is over must not end in an error about a character.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")
    logger, handler = logging.getLogger("aloe_agents"), logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("aloe: %(message)s"))
    handler.addFilter(FirstOfEachKind())
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def main() -> None:
    """The console script."""
    if instruction := os.environ.get("_ALOE_COMPLETE"):  # the shell asks what could come next
        sys.exit(
            importlib.import_module("click.shell_completion").shell_complete(
                aloe, {}, "aloe", "_ALOE_COMPLETE", instruction
            )
        )
    with _reported():
        sys.exit(_run())


def _run() -> int:
    """Run the command that was given. Returns its exit code."""
    context: click.Context | None = None
    debug = False
    try:
        with aloe.make_context("aloe", sys.argv[1:]) as context:
            code = aloe.invoke(context)
        debug = DEBUG in context.meta
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except click.exceptions.Exit as left:  # the help page, the version
        return left.exit_code
    except (click.exceptions.Abort, KeyboardInterrupt):
        # An interrupt that left an exec(), such as a dataclass's in an import, has `python -m` die of SIGINT whatever became
        # of it since; the next exec() forgets that.
        exec("")  # noqa: S102
        return 130
    except BrokenPipeError:  # aloe ... | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except click.ClickException as error:
        if isinstance(error, click.exceptions.NoArgsIsHelpError):
            error.show()  # the help page
        else:
            click.echo(f"aloe: {_in_one_line(error)}", err=True)
        return 2
    except Exception as error:  # noqa: BLE001 whatever it is, one line says it
        debug = debug or "--debug" in sys.argv
        if debug:
            traceback.print_exc()
        click.echo(f"aloe: {_in_one_line(error)}", err=True)
        return 2 if isinstance(error, ConfigError) else 1


def _in_one_line(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, click.UsageError):
        text = error.format_message() + (f" ({error.ctx.command_path} --help says more)" if error.ctx else "")
    else:
        text = str(error) if isinstance(error, AloeError) else f"{type(error).__name__}: {error} (--debug says more)"
    return " ".join(inert(text).split())


if __name__ == "__main__":
    main()
