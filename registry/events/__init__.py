"""What happened, in one order that everybody sees alike, for those who follow it."""
