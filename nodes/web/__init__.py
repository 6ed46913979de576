"""HTTP routes of this pack."""
