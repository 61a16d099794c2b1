"""transformers, imported so that nothing is looked up on a network."""

from __future__ import annotations

import os
from typing import Any

from edgepack.student.spec import StudentError

# Read when huggingface_hub is imported; local_files_only says the same of every call.
_OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}


def transformers_offline() -> Any:
    """The transformers module.

    Raises:
        StudentError: it is not installed, or does not import.
    """
    os.environ.update(_OFFLINE)
    try:
        import transformers
    except ImportError as error:
        raise StudentError(
            f"a Hugging Face folder needs transformers ({error})", "pip install 'edgepack[huggingface]', with torch installed first"
        ) from error
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return transformers
