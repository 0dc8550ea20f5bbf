"""Code that all other folders use: parameters, tables, files, randomness, errors, and the runner of the stages."""
