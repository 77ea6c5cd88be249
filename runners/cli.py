"""``aloe COMMAND``. Commands are loaded when they are used: the help page loads none of them.

Exit codes: 0 done; 1 done with failures, or stopped by an error; 2 unusable arguments or configuration;
130 interrupted, with all that was paid kept. Errors are one line on standard error; ``--debug`` shows where from.
"""

from __future__ import annotations

import importlib
import keyword
import os
import sys
from collections.abc import Mapping
from typing import Any

import click

from aloe_agents import __version__
from aloe_agents.errors import AloeError, ConfigError
from aloe_agents.text import inert

COMMANDS = {
    "demo": "The whole method offline in seconds, with the scripted model.",
    "personas": "Pools of profiles and personalities: grow, import, review, split, sample.",
    "simulate": "Personas in, conversation trees out; the same command resumes.",
    "evaluate": "The ALOE benchmark: how well a model adapts to its user.",
    "compare": "Evaluations side by side: tables, curves, differences beyond chance.",
    "judge": "Score a finished run again, with another judge.",
    "train": "SFT and DPO on the trees of a run.",
    "annotate": "Sheets for people, and how far they agree with the judge.",
    "watch": "Show a running or finished run in the terminal.",
    "status": "The accounting of a run.",
    "export": "Write a run's trees in another format.",
    "serve": "Serve a local model, or the scripted one, until stopped.",
    "doctor": "What is installed, which endpoints answer, who hears whom.",
}


class Commands(click.Group):
    """Knows names and help lines by heart, and imports a command when it is called: ``home.NAME``, its ``command``."""

    def __init__(self, *args: Any, home: str, about: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.home, self.about = home, about

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.about)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.about:
            return None
        module = f"{self.home}.{cmd_name}_" if keyword.iskeyword(cmd_name) else f"{self.home}.{cmd_name}"
        command: click.Command = importlib.import_module(module).command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.about and not args[0].startswith("-"):
            import difflib

            close = difflib.get_close_matches(args[0], self.about, 1)
            meant = f"; did you mean {close[0]!r}?" if close else f" (there are {', '.join(self.about)})"
            raise click.UsageError(f"no command {args[0]!r}{meant}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(self.about.items()))


@click.command(
    cls=Commands,
    home="aloe_agents.runners",
    about=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(__version__, prog_name="aloe")
def aloe(debug: bool) -> None:
    """Simulate many believable users at once.

    \b
    Try:  aloe demo
          aloe simulate --personas personas.jsonl --out runs/first
    """


def main() -> None:
    """The console script."""
    debug = "--debug" in sys.argv
    try:
        code = aloe.main(prog_name="aloe", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.Abort:
        # An interrupt that left an exec(), such as a dataclass's in an import, has `python -m` die of SIGINT whatever became
        # of it since; the next exec() forgets that.
        exec("")  # noqa: S102
        sys.exit(130)
    except BrokenPipeError:  # aloe ... | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except click.ClickException as error:
        if isinstance(error, click.exceptions.NoArgsIsHelpError):
            error.show()  # the help page
        else:
            click.echo(f"aloe: {_in_one_line(error)}", err=True)
        sys.exit(2)
    except Exception as error:
        if debug:
            raise
        click.echo(f"aloe: {_in_one_line(error)}", err=True)
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    sys.exit(code if isinstance(code, int) else 0)


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
