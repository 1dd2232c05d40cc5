"""diffusers' pipelines, with dode's tableaux."""
