"""Parameter-efficient fine-tuning: what changes a model on the device, the cheapest first.

`statistics` re-estimates batch norm from unlabelled windows, `head` solves the last layer in closed
form, `lora_edge` trains the output-side cores `G` of the kernels that `tt` takes apart; begin there
for the words. `suffixes` are what a version keeps of them, `selection` says which layers are meant,
`view` leaves the base alone.

`lean_lora_edge` is the same adapter at its floor of memory and compute. In the order of the work:

    capture     a module as a graph of operations     program   steps that can be told and cut
    lowering    from the one to the other
    lean        a convolution and what follows it     mixture   the same of an input that is frozen
    geometry    how a kernel lies on its input        norm      batch norm as scale and shift
    activation  what each keeps                       bits      one bit an element
    pointwise   what follows no convolution           pooling   maxima and means
    layout      maps innermost in memory
    prefix      what is run once per window           plan      cost, and how to fit a budget
    footprint   memory as a function of the batch     saved     what autograd was given
"""
