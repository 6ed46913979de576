"""Programs kept on disk for the next session."""

from .codec import register
from .entry import Entry, Storable, entry_of, kept_or_made
from .store import Store

__all__ = ["Entry", "Storable", "Store", "entry_of", "kept_or_made", "register"]
