"""Read by every Python that starts with this folder in PYTHONPATH: what is to be a fork goes no further."""

import os
import sys

if sys.orig_argv[1:2] == ["-m"] and sys.orig_argv[2] in os.environ.get("TESTS_FORKED", "").split():
    from tests.forks.client import end_as_fork

    end_as_fork(os.environ["TESTS_FORK_SERVER"])
