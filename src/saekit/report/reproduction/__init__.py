"""What a command made, made again and compared, number by number."""
