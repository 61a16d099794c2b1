"""The networks of modules.py as litert-torch converts them: ``python modules_litert.py OUT`` in the peers' environment (requirements.txt).

Images go in channels last, the peers' own advice for speed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import litert_torch
from modules import MODULES, made


def main(out: Path) -> None:
    """Write OUT/NAME.tflite of each."""
    out.mkdir(parents=True, exist_ok=True)
    for name in MODULES:
        module, example = made(name)
        if example[0].ndim == 4:
            module, example = litert_torch.to_channel_last_io(module, args=[0]), (example[0].permute(0, 2, 3, 1).contiguous(),)
        litert_torch.convert(module.eval(), example).export(str(out / f"{name}.tflite"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
