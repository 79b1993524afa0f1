from tests.serving.conftest import adapter_dirs, registry, serving, tiny_base

__all__ = ["adapter_dirs", "registry", "serving", "tiny_base"]
