"""Metrics of images: how far a set of samples is from another one, and each sample from the one of the same noise.

extractor = extractor_of("fashion")                    images -> features, logits
reference, gathered = Gathering(extractor), Gathering(extractor)
gathered.add(images)                                   batch by batch; memory does not grow with the samples
image_figures(gathered, reference)                     fid, kid, inception_score, precision, recall, with 90 % intervals
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
