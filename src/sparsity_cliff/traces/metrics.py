"""Units of metrics that several packages use."""

#: Bin edges of the metrics `weight_histogram.NN`, in units of the matrix's standard deviation at initialization.
HISTOGRAM_EDGES = [-6 + 0.25 * i for i in range(49)]
