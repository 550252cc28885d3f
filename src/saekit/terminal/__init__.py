"""What every command shares: output, options declared once, checks before work."""
