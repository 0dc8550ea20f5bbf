"""From Predictions to Scores, figures and the vote."""
