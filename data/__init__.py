"""One module per data set family: real data by path, an embedded generator as the default."""
