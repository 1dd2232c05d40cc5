"""The command line `dode`."""

from dode.cli.commands import app, main

__all__ = ["app", "main"]
