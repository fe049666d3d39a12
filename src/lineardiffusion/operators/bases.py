"""Orthonormal bases (to be replaced by the branch that writes them)."""


class Basis:
    shape: tuple[int, ...]
