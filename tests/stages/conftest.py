"""The finished run of the tests of the report."""

from tests.report.conftest import panel, run  # noqa: F401  # fixtures
