"""Marks of tests that need something of the operating system."""
import os

import pytest

posix_only = pytest.mark.skipif(os.name != 'posix', reason='needs POSIX: permissions, pipes in folders, process groups')
