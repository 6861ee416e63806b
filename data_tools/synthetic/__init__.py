"""A synthetic multi-camera corpus: people walk past cameras; videos, a tracker's output and the truth are written."""
