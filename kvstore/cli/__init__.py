"""The ``kv`` command: parse, call, print.

From simple to composed: ``exits`` and ``text`` (what a shell and a person see), ``output``
and ``options`` (what all commands share), ``endpoints`` and ``survey`` (which nodes there are
and what they say), the commands, and ``app``, which puts them behind one name. The processes
of a local cluster are the business of :mod:`kvstore.cli.launcher`.
"""
