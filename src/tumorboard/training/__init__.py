"""Trains one model: epochs, steps, checkpoints, several processes."""
