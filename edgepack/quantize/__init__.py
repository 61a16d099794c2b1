"""Schemes, constraints, range and weight algorithms, and the Q/DQ form every backend reads."""
