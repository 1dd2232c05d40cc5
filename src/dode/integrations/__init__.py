"""Other libraries' ways to sample, with dode's tableaux."""
