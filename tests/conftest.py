"""What all tests share."""

from hypothesis import settings

# Property tests build networks: how long one takes says nothing on a busy machine.
settings.register_profile("networks", deadline=None)
settings.load_profile("networks")
