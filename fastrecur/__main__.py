"""``python -m fastrecur``: print what a report about a problem needs."""

from . import show_config

show_config()
