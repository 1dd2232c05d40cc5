"""dode inside other programs, each integration thin and with its library imported only when it is used."""
