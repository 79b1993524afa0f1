"""`python -m registry` is the `hotswap` command."""

from registry.cli import main

main()
