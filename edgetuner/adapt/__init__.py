"""From drift to a swap: admission, the training child, the ladder it climbs, the gate at its
end.
"""
