"""The version of the package, from which the metadata of the wheel take it, and the address of its repository."""

__all__ = ['REPOSITORY', '__version__']

__version__ = '0.2.0'
REPOSITORY = 'https://github.com/nasnet-zoo/nasnet-zoo'
