"""What every training run shares, whatever it trains: settings, the outer loop, checkpoints, figures, the command line.

``config.RunConfig`` is the base of a run's settings, ``loop.Loop`` of its outer loop, ``folder`` names the files that a
run writes. Nothing here knows few-shot learning or disentanglement.
"""
