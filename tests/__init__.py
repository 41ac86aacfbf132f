"""The tests: a folder for each kind, and what they share in support."""

from pathlib import Path

#: The checkout.
ROOT = Path(__file__).resolve().parent.parent
