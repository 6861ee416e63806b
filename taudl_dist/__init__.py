"""TAUDL: person re-identification models from unlabelled multi-camera video, on one machine or many."""

__version__ = "0.1.0"
