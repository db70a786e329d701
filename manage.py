#!/usr/bin/env python
"""Django's command line: `python manage.py help`."""

import os
import sys


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "pipelinepulse.settings")
    if sys.argv[1:2] == ["run"]:
        # The supervisor brings everything along, secrets too, whatever servers it is given.
        os.environ["PULSE_EMBEDDED"] = "1"
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
