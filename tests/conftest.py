"""One thread for all tests: their tensors are small, and threads that wait for busy cores cost more than they bring."""

import torch

torch.set_num_threads(1)
