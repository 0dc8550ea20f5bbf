"""The models together: votes, evaluation, prediction on new images."""
