"""The command line: one module a verb, the parser they share, exit codes."""
