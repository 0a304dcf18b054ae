"""Kermany 2018: children's chest radiographs, normal or pneumonia."""
