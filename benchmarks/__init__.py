"""Each op and network beside its peers, and the check of a GPU."""
