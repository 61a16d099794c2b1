"""An interpreter of Core ML's MIL, so that an .mlpackage can be run, read back from disk, where there is no Core ML."""
