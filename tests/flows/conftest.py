from tests.serving.conftest import adapter_dirs, make_runner, registry, serving, tiny_base

__all__ = ["adapter_dirs", "make_runner", "registry", "serving", "tiny_base"]
