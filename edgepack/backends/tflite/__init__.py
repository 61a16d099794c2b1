"""The TFLite (LiteRT) backend: writes and lints one flatbuffer. Importing this imports no framework."""

from edgepack.backends.tflite.lint import lint
from edgepack.backends.tflite.write import obstacles, write

__all__ = ["lint", "obstacles", "write"]
