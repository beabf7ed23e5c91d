"""`deeper bench report`: generated records of any size come in; what it costs to publish and report them goes out."""
