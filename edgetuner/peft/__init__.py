"""Parameter-efficient fine-tuning: what changes a model on the device, the cheapest first.

`statistics` re-estimates batch norm from unlabelled windows, `head` solves the last layer in closed
form, `lora_edge` trains the output-side cores of the kernels that `tt` takes apart.
"""
