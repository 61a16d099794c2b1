"""Apple's operator tests, from the installed coremltools wheel, against the MIL interpreter. Nothing of Apple's is copied here."""
