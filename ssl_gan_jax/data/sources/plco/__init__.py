"""PLCO: the chest radiographs of the lung screening trial."""
