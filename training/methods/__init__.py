"""How the weights of a base are adapted, what that costs, and the plain LoRA it ends in."""
