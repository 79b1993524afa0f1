"""`python -m hotswap` is the `hotswap` command."""

from hotswap.registry.cli import main

main()
