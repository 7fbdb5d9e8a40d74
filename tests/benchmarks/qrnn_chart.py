"""The grid as the paper's Figure 4 draws it: how many times as fast as nn.LSTM and nn.GRU, batch by length."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
import report  # noqa: E402
from matplotlib.colors import LogNorm  # noqa: E402

TOP = 3  # the colours' last power of two; more has the last one's


def draw(path, rows, about):
    cells = [row for row in rows if "linear" in (row.get("seconds") or {})]
    batches = sorted({row["batch"] for row in cells})
    steps = sorted({row["steps"] for row in cells})
    with plt.rc_context({"font.size": 9, "font.family": "sans-serif", "svg.hashsalt": ""}):
        size = 3.4 + 1.15 * len(steps), 2.2 + 0.72 * len(batches)
        figure, axes = plt.subplots(2, 2, figsize=size, layout="constrained", sharex=True, sharey=True)
        for down, mode in enumerate(("inference", "training")):
            for right, name in enumerate(("LSTM", "GRU")):
                ratios = np.full((len(batches), len(steps)), np.nan)
                for row in cells:
                    if row["mode"] == mode:
                        place = batches.index(row["batch"]), steps.index(row["steps"])
                        ratios[place] = row["seconds"][name] / row["seconds"]["QRNN"]
                title = f"{'Inference' if mode == 'inference' else 'Training step'}, against nn.{name}"
                image = _panel(axes[down, right], ratios, batches, steps, title)
        for ax in axes[1]:
            ax.set_xlabel("sequence length")
        for ax in axes[:, 0]:
            ax.set_ylabel("batch size")
        bar = figure.colorbar(image, ax=axes, shrink=0.7, label="times as fast", ticks=[2**k for k in range(TOP + 1)])
        bar.ax.minorticks_off()
        bar.ax.set_yticklabels([2**k for k in range(TOP + 1)])
        figure.suptitle(f"A QRNN layer of 320 units\n{report.caption(about)}", fontsize=10)
        figure.savefig(path, dpi=110)
        plt.close(figure)


def _panel(ax, ratios, batches, steps, title):
    image = ax.imshow(ratios, norm=LogNorm(1, 2**TOP), cmap="viridis", aspect="auto")
    for (i, j), ratio in np.ndenumerate(ratios):
        if np.isfinite(ratio):
            ax.text(j, i, f"{ratio:.1f}x", ha="center", va="center", color="white" if ratio < 4 else "black")
    ax.set_xticks(range(len(steps)), steps)
    ax.set_yticks(range(len(batches)), batches)
    ax.tick_params(length=0)
    ax.set_title(title, fontsize=9.5)
    return image
