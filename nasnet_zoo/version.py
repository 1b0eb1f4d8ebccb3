"""The version of the package. The metadata of the wheel take it from here."""

__all__ = ['__version__']

__version__ = '0.2.0'
