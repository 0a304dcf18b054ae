"""MedMNIST's PneumoniaMNIST."""
