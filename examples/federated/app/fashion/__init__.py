"""LeNet-5 on Fashion-MNIST, split over many machines."""
