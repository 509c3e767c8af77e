"""What a server may do wrong, by what the next run of the same command can do about it."""

from ehrseq.core.errors import EhrseqError, ExitCode, SourceError


class ServerError(EhrseqError):
    """The server is away, overloaded or not done yet. What has come is kept, the same command goes on."""

    exit_code = ExitCode.TEMPORARY


class ExportFailedError(ServerError):
    """The server gave up on the export. The same command starts another one."""


class ExportGoneError(ServerError):
    """The server no longer has the export, or no longer gives its files out."""


class LinkExpiredError(ServerError):
    """A file's link is refused; the export's status may have a fresh one."""


class BadExportError(SourceError):
    """The export's files are not what it says they are, however often they are fetched."""


class StoppedError(EhrseqError):
    """Another download has failed, or the run was told to stop."""

    exit_code = ExitCode.TEMPORARY
