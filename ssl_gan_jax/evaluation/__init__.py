"""Evaluation of classifiers and generators: scores, calibration, explanations, copies."""
