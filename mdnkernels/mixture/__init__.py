"""What the mixture's ops share, and no other op."""
