"""Other libraries' networks, folders and schedulers. Each module imports its library only when it is used."""
