"""Weight files of other code bases and training programs, loaded into our networks.

:mod:`.formats` tells file formats apart and has one reader for each (``read_*.py``), which gives values by dotted
names. :mod:`.entries` finds the weights among them. :mod:`.renaming` translates tensor names by a table for each code
base (``names_*.py``). :mod:`.load` checks the result and puts it into a model.
"""
