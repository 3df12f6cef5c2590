"""Training in other processes: several on this machine, or several nodes of a cluster."""
