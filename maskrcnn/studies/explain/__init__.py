"""What RoI operators read, and how far that is from the box: ``maskrcnn explain-roi``."""
