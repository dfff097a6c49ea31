"""Measures of pose estimation, as pure functions on arrays; each names its reference."""
