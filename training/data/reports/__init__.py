"""What rows are like: statistics, drift, and the reports on them."""
