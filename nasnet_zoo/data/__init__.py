"""Data sets, preprocessing and augmentation."""
from .datasets import DATA_SETS, FileSet, ImageSet, load_data, load_digits
from .pictures import DataError
from .preprocessing import Preprocessing, make_preprocessing

__all__ = ['DATA_SETS', 'DataError', 'FileSet', 'ImageSet', 'Preprocessing', 'load_data', 'load_digits',
           'make_preprocessing']
