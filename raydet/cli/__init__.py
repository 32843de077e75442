"""The command line: one module a verb, the parser they share, exit codes."""


class HelpShown(Exception):
    """Help was asked for and is printed; the verb is not run."""
