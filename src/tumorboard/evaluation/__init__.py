"""Computes scores, their intervals and the tables of curves from Predictions."""
