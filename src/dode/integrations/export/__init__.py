"""A saved tableau in the forms that other programs take: lists of times or sigmas, a Python file, ComfyUI's nodes, ONNX."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "comfyui": ["to_comfyui"],
        "lists": ["times", "sigmas"],
        "onnx": ["to_onnx"],
        "python": ["to_python"],
    },
)
