"""Runners: small programs that run an artifact where it lives, for parity, calibration and timing alike."""
