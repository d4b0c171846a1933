"""Fixtures of this folder."""

from tests.p_xylene import p_xylene_files

__all__ = ["p_xylene_files"]
