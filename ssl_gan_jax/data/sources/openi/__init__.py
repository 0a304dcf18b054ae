"""Open-i: chest radiographs of Indiana University with their reports."""
