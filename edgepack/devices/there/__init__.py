"""Small programs for a device's own Python: standard library only, sent as they are (``edgepack.devices.ask``).

Each has ``answer(asked)``, from JSON data to JSON data. They avoid syntax newer than Python 3.7, so that an old one can be told so.
"""
