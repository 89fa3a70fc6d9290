"""`byoi`: the command for people."""

from agent.cli.main import main

__all__ = ["main"]
