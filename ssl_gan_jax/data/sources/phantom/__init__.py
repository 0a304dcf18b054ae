"""Made chest radiographs, normal or with an enlarged heart: no data needed."""
