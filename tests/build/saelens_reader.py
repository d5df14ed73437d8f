"""Loads a transcoder with the real sae-lens, in an environment of its own, and prints what it computes.

python saelens_reader.py FOLDER ACTIVATIONS.npy OUTPUT.npy
"""

import sys

import numpy as np
import torch
from sae_lens import SAE

folder, given, out = sys.argv[1:]
sae = SAE.load_from_disk(folder, device="cpu")
a = torch.from_numpy(np.load(given))
with torch.no_grad():
    features = sae.encode(a)
    np.save(out, sae.decode(features).numpy())
print(type(sae).__name__, tuple(features.shape))
