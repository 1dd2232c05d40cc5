"""Saved tableaux for others: a folder with a card that says what they are, what they were fitted for and what they gain, and the Hub.

dode.sharing.save_folder(result, "fashion-deis", denoiser, class_labels=labels)
dode.sharing.push_to_hub("fashion-deis", "someone/fashion-deis")
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
