"""Devices: places where an artifact runs, and the transports that carry a runner there."""
