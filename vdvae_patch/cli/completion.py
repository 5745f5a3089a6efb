"""`vdvae-patch completion SHELL`: a script by which bash, zsh or fish completes commands and their flags.

The flags are those of each command's `--help`, read when the script is made: completing a word starts no Python.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Mapping, Sequence

from vdvae_patch.cli import commands, dispatch
from vdvae_patch.errors import UnknownNameError

ABOUT = "a script that completes commands and flags, for bash, zsh or fish"

_SHELLS = ("bash", "zsh", "fish")
_USAGE = """usage: vdvae-patch completion bash|zsh|fish

Prints a script; load it in the file that your shell reads when it starts:
  bash:  eval "$(vdvae-patch completion bash)"          or save it below ~/.local/share/bash-completion/completions/
  zsh:   eval "$(vdvae-patch completion zsh)"           after compinit
  fish:  vdvae-patch completion fish > ~/.config/fish/completions/vdvae-patch.fish"""


def run(argv: Sequence[str]) -> int:
    """Print the script of a shell.

    Raises:
        UnknownNameError: another shell.
    """
    if len(argv) != 1 or argv[0] in ("-h", "--help"):
        print(_USAGE)
        return 0 if argv else 2
    if argv[0] not in _SHELLS:
        raise UnknownNameError("shell", argv[0], _SHELLS)
    words = {name: _words(name) for name in commands() if name != "completion"} | {"completion": list(_SHELLS)}
    print(_fish(words) if argv[0] == "fish" else _bash(words, zsh=argv[0] == "zsh"))
    return 0


def _words(command: str) -> list[str]:
    """The subcommands and flags of a command, as its help has them; with those of the command whose flags it takes."""
    captured = io.StringIO()
    with contextlib.redirect_stdout(captured), contextlib.suppress(SystemExit):
        dispatch([command, "--help"])
    text = captured.getvalue()
    listed = re.search(r"\{([a-z0-9,\s-]+)\}", text.partition("\n")[0]) if re.search(r"\bsubcommands\b", text) else None
    names = re.split(r"[\s,]+", listed[1].strip()) if listed else []
    flags = re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", text)
    other = re.search(r"flag (?:is one )?of\s`vdvae-patch ([a-z]+)`", text)
    return list(dict.fromkeys([*names, *flags, *(_words(other[1]) if other else ())]))


def _bash(words: Mapping[str, Sequence[str]], *, zsh: bool) -> str:
    cases = "\n".join(f'    {name}) words="{" ".join(flags)}" ;;' for name, flags in words.items())
    head = "autoload -U +X bashcompinit && bashcompinit\n" if zsh else ""
    return f"""{head}_vdvae_patch() {{
  local words current="${{COMP_WORDS[COMP_CWORD]}}"
  if [ "$COMP_CWORD" -eq 1 ]; then words="{" ".join(words)}"; else
    case "${{COMP_WORDS[1]}}" in
{cases}
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -o default -F _vdvae_patch vdvae-patch"""


def _fish(words: Mapping[str, Sequence[str]]) -> str:
    about = commands()
    lines = []
    for name, flags in words.items():
        first = "__fish_use_subcommand"
        lines.append(f"complete -c vdvae-patch -n {first} -a {name} -d {_quoted(about[name])}")
        seen = _quoted(f"__fish_seen_subcommand_from {name}")
        for word in flags:
            kind = f"-l {word[2:]}" if word.startswith("--") else f"-a {word}"
            lines.append(f"complete -c vdvae-patch -n {seen} {kind}")
    return "\n".join(lines)


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
