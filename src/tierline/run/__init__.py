"""The engine. Whoever enters this room is about to import torch: how its threads wait is set before."""

from tierline.run.idle import wait_idly

wait_idly()
