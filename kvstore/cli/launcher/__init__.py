"""A cluster of processes on this machine, kept in one directory.

``layout`` says which files there are, ``process`` what runs, ``ports`` what is free, ``node``
starts and stops one node, ``cluster`` all of them, ``ready`` waits until they serve. Nothing
here parses options or prints.
"""
