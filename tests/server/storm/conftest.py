"""The reference of a storm runs in the test's process, beside the server, which needs the other cores."""

from tests.one_thread import one_thread  # noqa: F401
