"""The words: elements, errors, options, settings, units. Imports nothing above it, and no Twisted."""
