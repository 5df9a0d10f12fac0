"""Mean and standard deviation that torchvision's ImageNet networks take images with, per channel of [0, 1] RGB."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
