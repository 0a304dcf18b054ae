"""What a classifier and a generator are worth: scores, calibration, explanations, copies."""
