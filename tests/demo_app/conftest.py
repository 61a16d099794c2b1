"""The digits pack of the system tests, for the programs that a person runs with one."""

from tests.system.conftest import digits_pack

__all__ = ["digits_pack"]
