"""Reports: the page about one evaluation, and the page that compares runs."""
