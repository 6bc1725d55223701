"""Histories of client operations, and whether they are linearizable.

``model`` says what an operation is, ``checker`` decides, ``brute_force`` decides slowly and so
obviously that the checker can be held against it, ``files`` keeps histories on disk, and
``python -m histories FILE`` checks one.
"""
