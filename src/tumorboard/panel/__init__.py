"""Uses trained models together: evaluates them, lets them vote, and predicts new images."""
