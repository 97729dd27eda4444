"""What a person looks at: the terminal table and the HTML page."""
