"""Data sets, pictures and augmentation."""
from .datasets import FileSet, ImageSet, load_data, load_digits
from .pictures import DataError

__all__ = ['DataError', 'FileSet', 'ImageSet', 'load_data', 'load_digits']
