"""The tests, one file for each module of the package; helpers that more than one of them uses stand beside them."""
