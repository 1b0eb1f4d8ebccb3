"""Push a trained model to the hub: python tools/push_to_hub.py FOLDER OWNER/NAME [--private --revision R --dry-run]"""
import sys

from nasnet_zoo.cli.main import app

app(['push', *sys.argv[1:]])
