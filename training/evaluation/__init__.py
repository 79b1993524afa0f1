"""How good an adapter's answers are: asked of a fresh serving engine, measured, reported."""
