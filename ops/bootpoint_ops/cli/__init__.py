"""The command line: ``bootpoint NOUN VERB``."""

from bootpoint_ops.cli.root import main

__all__ = ["main"]
