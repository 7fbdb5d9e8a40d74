"""The kernel of generalised advantage estimation: one walk against time, where the formula would be eight passes."""


def walk(rewards, values, next_values, terminated, truncated, out, state, gamma, decay, first, last, low, high):
    """Walk lanes ``low`` to ``high`` of the blocks ``first`` to ``last``; arrays are ``(outer, time, inner)``.

    ``values`` are of the states before the steps, ``next_values`` of those after. ``state`` is as wide as a row.
    """
    for block in range(first, last):
        state[low:high] = 0
        for ago in range(rewards.shape[1]):
            t = rewards.shape[1] - 1 - ago
            for j in range(low, high):
                ends = terminated[block, t, j]
                successor = 0.0 if ends else next_values[block, t, j]
                later = 0.0 if ends or truncated[block, t, j] else state[j]
                error = rewards[block, t, j] + gamma * successor - values[block, t, j]
                state[j] = error + decay * later
                out[block, t, j] = state[j]
