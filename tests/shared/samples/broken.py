"""A function whose module cannot be imported."""

import a_package_that_was_left_out_of_the_zip  # type: ignore[import-not-found]  # noqa: F401
