"""The catalog: an SQL index over the store that can be thrown away."""
