"""A trained model as a file that runs without this framework, proven equal before it is called good."""
