"""``maskrcnn benchmark``: what a config takes on a machine, and what holds it up."""
