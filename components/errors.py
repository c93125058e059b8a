"""The one exception meant for people."""


class UserError(Exception):
    """What is wrong and what to do about it, in one line.

    Raised wherever bad input is met; the command line prints the message without a traceback and exits 1.
    """
