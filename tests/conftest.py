import torch
from hypothesis import settings

settings.register_profile("quiet", deadline=None, max_examples=40)
settings.load_profile("quiet")
torch.set_num_threads(1)
