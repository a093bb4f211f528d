"""The entry point: overrides are recognised, errors become one message and an exit code."""

from __future__ import annotations

import io
import logging
import os
import re
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress

from cyclopts import App, CycloptsError, MissingArgumentError, UnusedCliTokensError

from unreel.cli.app import app
from unreel.cli.common import LOG, print_json
from unreel.cli.overrides import SHORT_NAMES
from unreel.core.errors import UnreelError, UsageError, nearest
from unreel.core.files import is_refusal, refused
from unreel.core.progress import set_quiet
from unreel.core.signals import Interrupted, interruptible
from unreel.core.text import ON_TERMINALS

DONE, FAILED, WRONG_CALL = 0, 1, 2
_SIGNALLED = 128  # plus the signal's number, as shells have it

_BARE = re.compile(r"^--([A-Za-z_][\w-]*)(?:=(.*))?$", re.DOTALL)
_DOTTED = re.compile(r"^--([A-Za-z_][\w-]*)\.([A-Za-z_][\w-]*)(?:=(.*))?$", re.DOTALL)


def fold_overrides(arguments: Sequence[str]) -> list[str]:
    """Turn ``--method.temperature 0.2`` into ``--set method.temperature=0.2``, the form the parser declares.

    So is ``--epochs 3`` where the command takes settings by their name alone, and has no such option itself.
    Raises: UsageError when a setting has no value.
    """
    folded: list[str] = []
    rest = list(arguments)
    options = _options(rest[0]) if rest and rest[0] in SHORT_NAMES else None
    while rest:
        token = rest.pop(0)
        if token == "--":
            return [*folded, token, *rest]
        bare = _BARE.match(token) if options is not None else None
        if options is not None and bare is not None and not nearest(bare[1].replace("_", "-"), options, cutoff=0.8):
            value = bare[2] if bare[2] is not None or not rest or rest[0].startswith("--") else rest.pop(0)
            folded += [token] if value is None else ["--set", f"{bare[1].replace('-', '_')}={value}"]
            continue
        match = _DOTTED.match(token)
        if match is None:
            folded.append(token)
            continue
        section, key, value = match.groups()
        if value is None:
            if not rest or rest[0].startswith("--"):
                raise UsageError(f"{token} needs a value, such as {token} 0.1")
            value = rest.pop(0)
        folded += ["--set", f"{section}.{key.replace('-', '_')}={value}"]
    return folded


def _options(command: str) -> list[str]:
    """Names that the command declares, without their dashes."""
    own = [name for argument in app[command].assemble_argument_collection() for name in argument.names]
    return [name.lstrip("-") for name in (*own, *app.help_flags, *app.version_flags)]


def _command(arguments: Sequence[str]) -> tuple[App, str]:
    """The command that is called, and what was typed to call it."""
    names: list[str] = []
    level = app
    for token in arguments:
        if token.startswith("-") or token not in level:
            break
        names.append(token)
        level = level[token]
    return level, " ".join(["unreel", *names])


def _too_much(arguments: Sequence[str], extra: Sequence[str]) -> UsageError:
    command, typed = _command(arguments)
    found = [name for a in command.assemble_argument_collection() for name in a.names if name.isidentifier()]
    takes = " ".join(found) if found else "options only"
    several = "; for several folders or files, write a table (CSV) with a column path" if "DATA" in found else ""
    return UsageError(f"{typed} takes {takes}, and {' '.join(extra)} is too much{several}")


def _missing(arguments: Sequence[str], error: MissingArgumentError) -> UsageError:
    """What the call lacks, and what that is; a value, where only the option's name was given."""
    argument = error.argument
    if argument is None:
        return UsageError(str(error))
    given = next((token.keyword for token in reversed(argument.tokens) if token.keyword), error.keyword)
    if given:
        return UsageError(f"{given} needs a value")
    command, typed = _command(arguments)
    documented = command.assemble_argument_collection(parse_docstring=True)
    what = " ".join((next(a.parameter.help for a in documented if a.name == argument.name) or "").split())
    like = nearest(argument.name, [t for t in error.unused_tokens or () if t.startswith("--")], limit=1, cutoff=0.6)
    hint = f" (not {like[0]})" if like else ""
    return UsageError(f"{typed.removeprefix('unreel ')} needs {argument.name}{hint}" + (f": {what}" if what else ""))


def _report(error: BaseException, code: int, arguments: Sequence[str], *, hint: str = "") -> int:
    if "--debug" in arguments:
        traceback.print_exception(error, file=sys.stderr)
    message = str(error) or type(error).__name__
    if "--json" in arguments:
        kind = type(error).__name__
        print_json({"error": {"kind": kind, "message": message, "exit_code": code}})
    print(f"unreel: {message}", file=sys.stderr)
    if hint:
        print(hint, file=sys.stderr)
    return code


def _silence_stdout() -> None:
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns 0 when done, 1 when the work failed, 2 when the call was wrong, 128 plus the number of a signal that stopped
    it (130 for Ctrl-C, 143 for SIGTERM).
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    # Threads that wait for one another sleep instead of spinning: where others use the cores too, a loader's worker
    # or another job, spinning makes a training step ten times as long. Read when torch is imported, hence here.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=ON_TERMINALS)
    set_quiet("--quiet" in given or bool(os.environ.get("UNREEL_QUIET")))
    logger = logging.getLogger("unreel")
    if LOG not in logger.handlers:
        logger.addHandler(LOG)
    logger.setLevel(logging.INFO)
    LOG.begin(quiet="--quiet" in given)
    hint = f"try: {_command(given)[1]} --help"
    try:
        with interruptible():
            code = app(fold_overrides(given), exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
        return code if isinstance(code, int) else DONE
    except UnusedCliTokensError as error:
        return _report(_too_much(given, error.unused_tokens or ()), WRONG_CALL, given, hint=hint)
    except MissingArgumentError as error:
        return _report(_missing(given, error), WRONG_CALL, given, hint=hint)
    except CycloptsError as error:
        return _report(error, WRONG_CALL, given, hint=hint)
    except UsageError as error:
        return _report(error, WRONG_CALL, given)
    except UnreelError as error:
        return _report(error, FAILED, given)
    except BrokenPipeError:  # `unreel … | head`: the reader has enough
        _silence_stdout()
        return DONE
    except (KeyboardInterrupt, Interrupted) as error:
        number = error.number if isinstance(error, Interrupted) else signal.SIGINT
        return _report(Interrupted(number), _SIGNALLED + number, given)
    except Exception as error:
        if isinstance(error, OSError) and is_refusal(error):
            if error.filename is None:  # what Python would try to write once more at its end
                _silence_stdout()
            return _report(refused(error.filename or "the output", error), FAILED, given)
        # Not one of ours: a fault of unreel or of the machine. Its kind matters to whoever reports it.
        if "--debug" not in given:
            hint = "this is not a message unreel makes on purpose; --debug shows where it happened"
            return _report(RuntimeError(f"{type(error).__name__}: {error}"), FAILED, given, hint=hint)
        return _report(error, FAILED, given)
