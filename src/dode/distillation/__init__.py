"""Distilled-ODE solvers: the numbers that make a few-step run follow a many-step one."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
