"""The student: the model to export, with everything a reader of the pack must know about it."""
