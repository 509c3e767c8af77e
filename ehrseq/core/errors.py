"""Typed errors and the exit codes that schedulers read.

A message says where, what was found, what was expected and what to do. It never quotes a patient's data.
"""

from collections.abc import Iterable
from difflib import get_close_matches
from enum import IntEnum


class ExitCode(IntEnum):
    """What the process returns. Numbers are never reused for another meaning.

    >>> int(ExitCode.TEMPORARY)
    75
    """

    DONE = 0
    USAGE = 2  # the command, a configuration or a mapping is wrong: a person must change something
    DATA_QUALITY = 3  # the input breaks a declared limit: look at the rejects
    MODEL_GATE = 4  # a model was trained and refused
    TEMPORARY = 75  # the same command may succeed later: a lock, a full disk, a signal
    NOTHING_TO_DO = 99


class EhrseqError(Exception):
    """Base of all errors that are meant to be read by a user. `exit_code` is the process's exit status."""

    exit_code: ExitCode = ExitCode.USAGE


class ConfigError(EhrseqError):
    """A configuration file or an argument is wrong."""


class SchemaError(EhrseqError):
    """A table or dataset does not have the promised columns, types or files."""


class MappingError(EhrseqError):
    """A mapping file is wrong; the message names file and line."""


class TimelineError(EhrseqError):
    """A view or the events it makes are wrong."""


class TaskError(EhrseqError):
    """A task definition is wrong, or matches nothing."""


class TokenError(EhrseqError):
    """A token store or vocabulary is damaged or belongs to something else."""


class ShapeError(EhrseqError):
    """An array has another shape than promised."""


class ModelError(EhrseqError):
    """A model, checkpoint or training run cannot be used as asked."""


class SourceError(EhrseqError):
    """An input file cannot be read as declared."""

    exit_code = ExitCode.DATA_QUALITY


class DataQualityError(EhrseqError):
    """The data break a declared limit, such as the fraction of rejected rows."""

    exit_code = ExitCode.DATA_QUALITY


class GateError(EhrseqError):
    """A model did not pass its gate."""

    exit_code = ExitCode.MODEL_GATE


class StorageError(EhrseqError):
    """The disk is full or refuses; nothing that was there is lost."""

    exit_code = ExitCode.TEMPORARY


class BusyError(EhrseqError):
    """Another run is writing the same dataset."""

    exit_code = ExitCode.TEMPORARY


class InterruptedRunError(EhrseqError):
    """The run was told to stop (SIGTERM) and has left everything resumable."""

    exit_code = ExitCode.TEMPORARY


def closest(name: str, options: Iterable[str]) -> str:
    """Return ' Closest: "x".' for the option nearest to `name`, or '' if none is near.

    >>> closest("valueom", ["value", "valueuom", "flag"])
    ' Closest: "valueuom".'
    >>> closest("zzz", ["value"])
    ''
    """
    found = get_close_matches(name, [str(option) for option in options], n=1, cutoff=0.5)
    return f' Closest: "{found[0]}".' if found else ""
