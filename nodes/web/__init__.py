"""The HTTP routes of this pack."""
