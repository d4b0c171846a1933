"""Fixtures of this folder."""

from tests.p_xylene import p_xylene, p_xylene_topology, t4_lysozyme

__all__ = ["p_xylene", "p_xylene_topology", "t4_lysozyme"]
