"""An HTTP server for a trained checkpoint, with a page."""
