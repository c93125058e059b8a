"""Images on disk: reading them, the manifest, the split, the importers and the built-in sample."""
