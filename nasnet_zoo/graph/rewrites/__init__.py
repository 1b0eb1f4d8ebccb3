"""Exact rewrites of a graph, by theme. Each is a function (graph, size of the images or None) -> graph.

``before  →  after`` in a docstring reads from the input to the output. `passes.py` says in which order they run, and
`targets.py` which of them run for which target.
"""
