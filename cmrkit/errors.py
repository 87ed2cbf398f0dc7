"""The two kinds of error a user can meet; the command line turns them into exit codes."""


class CmrkitError(Exception):
    """Something failed while doing what was asked: exit code 1."""

    exit_code = 1


class UsageError(CmrkitError):
    """What was asked, or given as input, is not valid: exit code 2."""

    exit_code = 2
