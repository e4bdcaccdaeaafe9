"""What a training run did, to print, plot and look at."""
