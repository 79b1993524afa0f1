"""What is wrong with training rows: findings about single rows, answers as a whole and repeats."""
