"""Control: a diffusion policy moves an arm of two links, and dode lets it decide in few network calls.

reaching.py     the task, its expert, and episodes
policy.py       the network, its training, and the network as a `dode.Denoiser`
measuring.py    the solvers that are compared: how they are found, and what is measured of them
tables.py       the same as a table and as a picture

python -m examples.control --help
"""
