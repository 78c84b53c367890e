"""Data sets in and out: formats, the image decoder, transforms, the loader, synthetic scenes."""
