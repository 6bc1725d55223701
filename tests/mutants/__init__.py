"""Planted bugs: each breaks one rule, and the simulator must notice (DESIGN section 11).

``catalogue`` holds them, ``planting`` makes the copy of the code that has one, ``hunting``
runs the simulator on it, ``python -m mutants`` runs them all. One that survives means that
the simulator lacks a fault or a check.
"""
