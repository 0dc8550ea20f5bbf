"""Changes training images at random, mixes pairs, and balances the classes by copies and by generated images."""
