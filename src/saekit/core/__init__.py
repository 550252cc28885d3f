"""Values, files and names that every other package stands on."""
