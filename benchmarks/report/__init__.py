"""One page of all micro-benchmarks: `make bench-report`, or `python -m benchmarks.report --help`.

What is where:

    rows.py     what is measured: every workload of the table of ops, and mixture_nll as its sizes grow
    measure.py  a row's times, its floor and its memory
    results.py  a result, its CSV, and the ratios to an earlier report
    page.py     the page
    plots.py    the plots
"""
