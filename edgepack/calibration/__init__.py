"""Calibration sets: what they name, how samples are read and checked, and the ranges observed on the hub."""
