"""What every room speaks: parameters, tables, files, randomness, errors."""
