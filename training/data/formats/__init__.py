"""Files of training rows: which formats there are, how each is read, checked and written."""
