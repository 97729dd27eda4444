"""What the method and its parts are worth."""
