"""What ``scripts/elastic.py`` measures with.

``ledger`` knows what must be there and ``samples`` what an operation took, both pure; ``load`` is
the client that works on all the while, a process of its own, and ``driver`` its other end;
``stage`` is the cluster and ``level`` when it has come to rest; ``phases`` are what it goes
through, ``rows`` what that came to, ``balance`` the figures beside them, ``table`` what is
printed.
"""
