"""Completion in a shell, by argcomplete: at each TAB the shell asks the command itself, so no name is out of date."""

import argparse
import pathlib

import argcomplete

from cbjax.config.files import named
from cbjax.config.methods import KEY, METHODS
from cbjax.config.schema import KEYS
from cbjax.host.output import say

SHELLS = ("bash", "zsh", "fish", "tcsh", "powershell")
SWEEPS = "sweeps"  # the folder of configs that only `cbjax sweep` reads


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the arguments of `cbjax completion`."""
    command.epilog = (
        'bash: eval "$(cbjax completion bash)"; zsh: autoload -Uz compinit && compinit, and then eval "$(cbjax '
        'completion zsh)"; fish: cbjax completion fish | source. The line belongs in .bashrc, .zshrc or config.fish'
    )
    command.add_argument("shell", choices=SHELLS, help="yours")


def run(shell: str) -> int:
    """Prints what the shell must run once."""
    say(argcomplete.shellcode(["cbjax"], shell=shell).rstrip())
    return 0


def answer() -> None:
    """Prints what may follow the words typed so far, as the shell's variables give them, and ends the process."""
    from cbjax.cli.arguments import WITH_KEYS, make_parser

    parser, commands = make_parser()
    for name, command in commands.items():
        if name in WITH_KEYS:
            add_keys(command)
        for action in command._actions:
            if action.option_strings == ["--config"]:
                action.completer = _configs(SWEEPS if name == "sweep" else "")  # type: ignore[attr-defined]
            elif action.metavar == "DIR":
                action.completer = argcomplete.DirectoriesCompleter()  # type: ignore[attr-defined]
    _Finder()(parser, always_complete_options="long")


class _Finder(argcomplete.CompletionFinder):
    """Puts an equals sign behind keys, since only `--config.KEY=VALUE` is read."""

    def quote_completions(self, completions, *arguments):
        whole = [f"{text}=" if text.startswith("--config.") and "=" not in text else text for text in completions]
        return super().quote_completions(whole, *arguments)


def add_keys(command: argparse.ArgumentParser) -> None:
    """Makes options of the keys of a config, each with its names, so that they complete as others do."""
    command.add_argument(f"--config.{KEY}", choices=tuple(METHODS), help="a method by its name")
    for key, (default, kind, doc) in KEYS.items():
        names = ("true", "false") if isinstance(default, bool) else kind.names
        option = command.add_argument(f"--config.{key}", help=doc.replace("%", "%%"))
        if names:
            # Names only help: a number or a file may be as right.
            option.completer = argcomplete.ChoicesCompleter(names)  # type: ignore[attr-defined, arg-type]


def _configs(folder):
    files = argcomplete.FilesCompleter(("py",))

    def complete(prefix, **_):
        known = [name for name in named(folder) if name.startswith(prefix)]
        return known if known and not pathlib.Path(prefix).parent.name else [*known, *files(prefix)]

    return complete
