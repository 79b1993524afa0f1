"""One quantized base in memory, many adapters beside it, one engine that mixes them in a batch.

Imports `registry`; is imported by `training`, which evaluates with the engine that will serve.
"""
