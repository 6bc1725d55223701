"""The fault walk: moves of replicas in real clusters, hurt at each of their stages.

:mod:`walk.stages` says what the stages are and how each is recognised from outside,
:mod:`walk.watch` asks the nodes again and again, :mod:`walk.kills` kills whoever has a part in a
move, :mod:`walk.scenarios` does the rest, :mod:`walk.whole` judges what has come of it.
"""
