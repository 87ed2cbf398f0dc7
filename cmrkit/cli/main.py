"""The ``cmrkit`` command: verbs are loaded when called, errors become one line and an exit code."""

from __future__ import annotations

import importlib
import os
import sys

import click

from cmrkit import __version__

VERBS = {
    "list": "browse the catalogue",
    "show": "one paper: what it is, what it claims, what was obtained",
    "plan": "the steps of a reproduction, cached or not, and what is missing",
    "download": "fetch and verify a dataset's files, nothing more",
    "reproduce": "run a paper's recipe and judge the result",
    "compare": "papers side by side: one split, one protocol, tests, tables and figures",
    "report": "write one page about all papers and every result here",
    "eval": "evaluate a checkpoint, or codes and rankings made elsewhere",
    "index": "export database codes as a FAISS index",
    "search": "find images by text, or texts by image, with a checkpoint",
    "attest": "write what runs came to as a file that others can check",
    "verify": "check such a file: its hash, its code and data, its numbers run again",
    "cache": "list, verify, pin and collect what was computed",
    "doctor": "check this installation",
    "completion": "print the completion script of bash, zsh or fish",
    "schema": "print the JSON Schema of recipes, for editors",
    "new": "start a paper from a relative",
}


class Verbs(click.Group):
    """Imports a verb's module only when that verb is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order a newcomer meets them."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Return the command of a verb, or None."""
        if name not in VERBS:
            return None
        return importlib.import_module(f"cmrkit.cli.{name}").command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list:
        """Offer the verbs without importing any of them."""
        from click.shell_completion import CompletionItem

        verbs = {verb: text.replace(",", ";") for verb, text in VERBS.items()}  # fish cuts descriptions at a comma
        found = [CompletionItem(verb, help=text) for verb, text in verbs.items() if verb.startswith(incomplete)]
        return found or click.Command.shell_complete(self, ctx, incomplete)

    def resolve_command(self, ctx: click.Context, args: list[str]):
        """Resolve the verb, offering the nearest one where it is unknown."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            from cmrkit.recipe.source import did_you_mean

            raise click.UsageError(f"no command {args[0]!r}{did_you_mean(args[0], VERBS)}", ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of verbs without importing any of them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


@click.command(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="cmrkit")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Reproduce cross-modal (image-text) retrieval papers with one command."""


def main(argv: list[str] | None = None) -> None:
    """Run the command line and leave with its exit code: 0, 1 for failure, 2 for usage, 130 for Ctrl-C."""
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args or bool(os.environ.get("CMRKIT_DEBUG"))
    sys.exit(_guarded([a for a in args if a != "--debug"], debug))


def _guarded(args: list[str], debug: bool) -> int:
    from cmrkit.errors import CmrkitError

    try:
        return cli.main(args=args, prog_name="cmrkit", standalone_mode=False) or 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return _fail("interrupted; what was finished is cached", 130)
    except CmrkitError as error:
        if debug:
            raise
        return _fail(str(error), error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debug:
            raise
        return _fail(f"unexpected {type(error).__name__}: {error}; run again with --debug for the traceback", 1)


def _fail(message: str, code: int) -> int:
    print(f"cmrkit: {message}", file=sys.stderr)
    return code
