"""Proteins: the networks of cgback (PyPI, MIT) place the atoms of a protein around its C-alpha trace; dode makes them do so in few calls.

network.py      somebody else's network as a `dode.Denoiser`
residues.py     what it is told of each residue: files of proteins as conditions
distil.py       which solver and grid is best as it is, and what distilling makes of it
geometry.py     bond lengths and handedness, beside those of the crystal
measure.py      errors against 400 calls, geometry, time
picture.py      the same as a picture
dropin.py       cgback's own program with a distilled solver in place of its 20 steps

python -m examples.proteins --help
"""
