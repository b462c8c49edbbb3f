"""What every test relies on."""

from hypothesis import settings

# A busy machine makes single examples slow; the whole run is bounded by its runner, not each example by a deadline.
settings.register_profile("here", deadline=None, print_blob=True)
settings.load_profile("here")
