"""Push a trained model to the Hub: python tools/push_to_hub.py FOLDER OWNER/NAME [--private --revision R --dry-run]"""
import sys

from nasnet_zoo.cli.main import app

app(['push', *sys.argv[1:]])
