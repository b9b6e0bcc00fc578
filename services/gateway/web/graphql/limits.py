"""Bounds that several modules need, without what they import."""

PAGE = 20
"""Items in a page when nobody says."""
MOST_IN_PAGE = 100
