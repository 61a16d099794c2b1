"""The command line: one module a verb; heavy imports happen inside the verb."""

from __future__ import annotations

from edgepack.cli.app import main

__all__ = ["main"]
