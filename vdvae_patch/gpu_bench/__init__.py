"""`bench --gpu`: one command that measures a GPU for training, in the minutes that it is lent.

cells = plan(variants, batches)              the most valuable first
results = Results(folder, about)             a file for each, which is not measured again
left = watch(results, cells, start, ...)     a process measures them, and this one watches it
page(title, results, cells, left)            beside the goals
"""
