"""``maskrcnn new``: a config that fits data and a machine, with a reason at each key."""
