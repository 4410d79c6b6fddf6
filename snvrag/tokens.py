"""The vocabulary: fixed, whatever the panel."""

PAD, SOS, MASK, REF, ALT = range(5)
N_TOKENS = 5
