from maskrcnn.run.model import Model as Model

__version__: str
