"""CheXpert of Stanford."""
