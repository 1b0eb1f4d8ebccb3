"""The ``nasnet-zoo`` command."""
from .main import app

__all__ = ['app']
