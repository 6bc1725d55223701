"""Planted bugs: each breaks one rule, and the simulator must notice (DESIGN section 11).

``catalogue`` holds them, ``python -m mutants`` runs them. One that survives means that the
simulator lacks a fault or a check.
"""
