"""Parameter-efficient fine-tuning: what changes a model on the device, the cheapest first.

`statistics` re-estimates batch norm from unlabelled windows, `head` solves the last layer in closed
form, `lora_edge` trains the output-side cores of the kernels that `tt` takes apart; `suffixes` does
so once for a whole module.

`lean_lora_edge` is the same adapter at its floor of memory and compute: `capture` reads what a
module does, `lowering` makes a `program` of it, whose convolutions are those of `lean`.
"""
