"""The Core ML backend: an ML Program package written from the hub, read back, and linted.

    write(model, out, options)   -> <out>/model.mlpackage, described
    obstacles(model)             -> every reason a model cannot be written
    lint(artifact)               -> what Core ML would refuse in a written package

Importing this package imports no framework; ``obstacles`` needs only onnx_ir.
"""

from edgepack.backends.coreml.backend import lint, obstacles, write

__all__ = ["lint", "obstacles", "write"]
