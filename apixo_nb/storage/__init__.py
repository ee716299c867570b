"""The pictures on disk: originals byte for byte, a JSON sidecar beside each, thumbnails."""
