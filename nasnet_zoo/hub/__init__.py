"""Model folders, and publishing them on the Hugging Face hub."""
from .folder import HubError, read_accuracy, record_accuracy, write_folder

__all__ = ['HubError', 'read_accuracy', 'record_accuracy', 'write_folder']
