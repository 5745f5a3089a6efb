"""`report`: what runs, comparisons, reproductions and guards wrote, as one page that opens without a network.

Gathering knows nothing of HTML, and rendering reads no file of a run.

| module | holds |
|---|---|
| `find` | what lies in a folder: runs, comparisons, guards, reproductions |
| `runs` | one run: its configuration, its log, its skips, how it stands |
| `columns` | log files as columns of numbers, and what of them cannot be read |
| `looks` | the heads over time |
| `skipped` | skipped updates, of runs and of guards |
| `guards`, `reproductions` | one guard's folder, one reproduction |
| `runsets` | runs side by side: rows of the table, means, differences |
| `thinning` | a million records as a thousand points, and no skip lost |
| `pictures` | sample grids as data of the page |
| `drawn` | what the page's charts are drawn from |
| `page` | the template, filled in |
| `write` | the file, once or as often as something changes |
"""
