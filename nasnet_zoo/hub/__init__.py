"""Model folders (:mod:`~nasnet_zoo.hub.folder`) and their upload to the Hugging Face Hub
(:mod:`~nasnet_zoo.hub.publish` and :mod:`~nasnet_zoo.hub.space`, which are not imported here: training needs only the
folders)."""
from .folder import HubError, read_accuracy, record_accuracy, write_folder

__all__ = ['HubError', 'read_accuracy', 'record_accuracy', 'write_folder']
